# SPDX-License-Identifier: GPL-2.0-only
"""The reference model: what must hold after any sequence of operations on namespaces.

`worlds` says what there is, `lifetimes` what is active, `listings`, `joining` and `powers` what
calls return; `operations` change a world, `plays` compare it with the kernel.
"""
