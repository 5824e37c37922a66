# SPDX-License-Identifier: GPL-2.0-only
"""The actors of a race: processes that run a prepared program (nslib.shots) in machine code.

An actor shares memory and fds with the test that made it, and has its own pid, namespaces and
credentials. It touches no stack. x86-64 only.
"""

import ctypes
import os
import signal
import time
from contextlib import suppress
from functools import cache
from typing import Any

from . import acting
from .acting import Meeting
from .exits import has_ended
from .forking import CLONE_PIDFD, CloneArgs, pid_in_proc
from .futexes import wait_while
from .idling import CLONE_CLEAR_SIGHAND, CLONE_FILES, CLONE_THREAD, CLONE_VM
from .memory import executable
from .shots import Act, Arena, Call, Program, State, Step
from .syscalls import SYS_CLONE3
from .waiting import scaled

_SECONDS = 5.0

# long f(struct clone_args *rdi, size_t rsi, struct actor *rdx), returns in the creator only. In
# the child rbx is the actor, r12 the step, r13d its flags, r14 the result for chained steps.
_CODE = bytes.fromhex(
    "b8b3010000"  # mov eax, 435: clone3(rdi, rsi)
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7401"  # jz child
    "c3"  # ret: the pid, or the negative errno
    "4889d3"  # child: mov rbx, rdx
    "4c8d6340"  # lea r12, [rbx+64]: the first step
    "458b6c2404"  # next: mov r13d, [r12+4]
    "41f6c502"  # test r13b, SHOT
    "7424"  # jz call
    "488b4308"  # mov rax, [rbx+8]: how many have not come yet
    "f0ff08"  # lock dec dword [rax]
    "833800"  # meet: cmp dword [rax], 0
    "7ffb"  # jg meet
    "488b0b"  # mov rcx, [rbx]
    "48ffc1"  # inc rcx
    "48ffc9"  # delay: dec rcx (not by rdtsc: QEMU takes a lock that the other would wait for)
    "75fb"  # jnz delay
    "0f31"  # rdtsc
    "48c1e220"  # shl rdx, 32
    "4809d0"  # or rax, rdx
    "48894310"  # mov [rbx+16], rax: the start
    "498b7c2408"  # call: mov rdi, [r12+8]
    "498b742410"  # mov rsi, [r12+16]
    "498b542418"  # mov rdx, [r12+24]
    "4d8b542420"  # mov r10, [r12+32]
    "4d8b442428"  # mov r8, [r12+40]
    "4d8b4c2430"  # mov r9, [r12+48]
    "41f6c501"  # test r13b, CHAINED
    "490f45fe"  # cmovnz rdi, r14
    "418b0424"  # mov eax, [r12]
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7506"  # jnz store
    "41f6c504"  # test r13b, FORK
    "7593"  # jnz child: rdx is still the third argument
    "4989442438"  # store: mov [r12+56], rax
    "41f6c501"  # test r13b, CHAINED
    "4c0f44f0"  # cmovz r14, rax
    "41f6c502"  # test r13b, SHOT
    "740f"  # jz judge
    "0f31"  # rdtsc
    "48c1e220"  # shl rdx, 32
    "4809d0"  # or rax, rdx
    "48894318"  # mov [rbx+24], rax: the end
    "eb05"  # jmp advance
    "4885c0"  # judge: test rax, rax
    "7811"  # js end
    "ff4320"  # advance: inc dword [rbx+32]
    "4983c440"  # add r12, 64
    "41f6c508"  # test r13b, LAST
    "0f8462ffffff"  # jz next
    "c7432401000000"  # end: mov dword [rbx+36], 1
    "488d7b24"  # lea rdi, [rbx+36]
    "be01000000"  # mov esi, FUTEX_WAKE
    "ba01000000"  # mov edx, 1
    "b8ca000000"  # mov eax, 202: futex(rdi, esi, edx)
    "0f05"  # syscall
    "b822000000"  # sleep: mov eax, 34: pause()
    "0f05"  # syscall
    "ebf7"  # jmp sleep
)


@cache
def _clone() -> Any:
    start, pointer = executable(_CODE), ctypes.c_void_p
    return ctypes.CFUNCTYPE(ctypes.c_long, pointer, ctypes.c_size_t, pointer)(start)


class Actor:
    """A process that runs a program; the object serves one process after the other."""

    def __init__(self, arena: Arena, script: Program, meeting: Meeting, flags: int = 0) -> None:
        """Lay it out. With CLONE_THREAD among the CLONE_* `flags` it is a thread of the actor that
        makes it, which takes machine code."""
        self._program = script
        self._arena = arena  # whose memory lasts as long as it
        self._meeting = meeting
        self._address = arena.take(ctypes.sizeof(State) + len(script.image))
        self._state = State.from_address(self._address)
        self._state.meeting = meeting.address
        steps = self._address + ctypes.sizeof(State)
        ctypes.memmove(steps, script.image, len(script.image))
        self._steps = (Step * script.length).from_address(steps)
        self._pidfd = ctypes.c_int.from_address(arena.take(4))
        self._args = CloneArgs.from_address(arena.take(ctypes.sizeof(CloneArgs)))
        self._args.flags = CLONE_VM | CLONE_FILES | flags
        if not flags & CLONE_THREAD:
            self._args.flags |= CLONE_PIDFD | CLONE_CLEAR_SIGHAND
            self._args.pidfd = ctypes.addressof(self._pidfd)
            self._args.exit_signal = signal.SIGCHLD
        self._pidfd.value = -1
        self._pid = 0
        self._patience = scaled(_SECONDS)

    @property
    def pidfd(self) -> int:
        """A pidfd of the process."""
        return self._pidfd.value

    @property
    def making(self) -> Call:
        """The step by which another actor makes this one, its child then."""
        size = ctypes.sizeof(self._args)
        return Call(SYS_CLONE3, (ctypes.addressof(self._args), size, self._address), Act.FORK)

    def aim(self, argument: int, value: int, *, back: int = 0) -> None:
        """Set an argument of the shot, or of the step so many before it, for the next process."""
        self._steps[self._program.shot - back].args[argument] = value

    def prepare(self, delay: int = 0) -> None:
        """Get ready for another process, which shoots `delay` turns of an empty loop after the
        actors have met."""
        state = self._state
        state.delay, state.start, state.end = delay, 0, 0
        state.progress, state.over = 0, 0
        self._pid = 0
        self._pidfd.value = -1

    def start(self) -> None:
        """Make the process, as a child of the caller."""
        try:
            self._pid = self._make()
        except OSError:
            self._pidfd.value = -1  # a late failure leaves a number here
            raise

    def _make(self) -> int:
        if not self._meeting.spin:
            return acting.start(self._args, self._address, self._meeting)
        args = ctypes.addressof(self._args), ctypes.sizeof(self._args)
        result = int(_clone()(*args, self._address))
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def wait_ready(self) -> None:
        """Wait until it is about to meet the others; OSError of the step that fails before."""
        state, shot = self._state, self._program.shot
        deadline = time.monotonic() + self._patience
        while state.progress < shot:
            os.sched_yield()
            if state.over:
                self._complain()
            if time.monotonic() > deadline:
                raise TimeoutError(f"an actor is stuck in step {state.progress}")

    def wait_over(self) -> None:
        """Wait until it has made all its calls; until it has ended, if the shot is an exit."""
        if self._program.exits:
            self.wait_ended()
            return
        over = self._address + State.over.offset
        deadline = time.monotonic() + self._patience
        while not self._state.over:
            wait_while(over, 0, 1.0)
            if time.monotonic() > deadline:
                raise TimeoutError(f"an actor is stuck in step {self._state.progress}")
        if self._state.progress < self._program.length:
            self._complain()

    def _complain(self) -> None:
        at = self._state.progress
        step = self._steps[at]
        number = -step.result
        raise OSError(number, f"{os.strerror(number)} in step {at}, system call {step.number}")

    @property
    def result(self) -> int:
        """What the shot returned: a negative errno if it failed."""
        return int(self._steps[self._program.shot].result)

    @property
    def before_shot(self) -> int:
        """What the step before the shot returned; the last step, if there is no shot."""
        return int(self._steps[self._program.shot - 1].result)

    @property
    def shot_at(self) -> int:
        """Time of the shot in ticks of the TSC."""
        return int(self._state.start)

    @property
    def done_at(self) -> int:
        """When the shot returned, in ticks of the TSC; 0 if it has not."""
        return int(self._state.end)

    @property
    def pid(self) -> int:
        """Its pid in /proc; to be asked for before it is reaped."""
        return self._pid or pid_in_proc(self.pidfd)

    def kill(self) -> None:
        """Send it SIGKILL; returns at once."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait_ended(self) -> None:
        """Wait until the process has ended, which may be a zombie then."""
        if not has_ended(self.pidfd, _SECONDS):
            raise TimeoutError("an actor does not end")

    def reap(self) -> None:
        """Wait until the process has ended, and reap it unless that is up to another."""
        self.wait_ended()
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        self._pidfd.value = -1

    def end(self) -> None:
        """End and reap the process, if there is one."""
        if self.pidfd > 0:
            with suppress(ProcessLookupError):
                self.kill()
            self.reap()
