# SPDX-License-Identifier: GPL-2.0-only
"""What a rule is called, and what it means that the kernel does not keep it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """A promise of the kernel: in words, where it is kept, and which behaviours it covers."""

    name: str
    text: str
    source: str
    behaviours: tuple[str, ...] = ()


class Disagreement(AssertionError):  # noqa: N818 - it is no error of ours
    """The kernel answered otherwise than a rule demands."""

    def __init__(self, rule: Rule, answered: str, demanded: str) -> None:
        """`answered` and `demanded` say what the kernel did, and what the rule says."""
        super().__init__(f"{rule.name}: {answered}; the rule demands {demanded}")
        self.rule, self.answered, self.demanded = rule, answered, demanded
