//! Kills a process at its n-th write, whichever of its threads makes it. The process is stopped when it asks the kernel for
//! something; what would change a file or answer somebody is counted, and the n-th of these is never done.

// Each test program uses a part of it.
#![allow(unreachable_pub)]

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the write it was to be killed at.
    Killed,
    /// By itself, after this many writes.
    Itself { writes: usize, code: i32 },
}

/// Follows a process, which waits for its start, until it ends. The thread that follows must be the one that began it.
///
/// # Panics
/// When the process cannot be followed, or is killed by somebody else.
pub fn kill_at(process: u32, wanted: usize, start: impl FnOnce()) -> End {
    let leader = Pid::from_raw(i32::try_from(process).unwrap());
    seize(leader);
    start();
    let mut writes = 0;
    let mut was_killed = false;
    // Only what this thread follows: others follow processes of their own.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        match waitpid(None, Some(flags)).unwrap() {
            WaitStatus::PtraceSyscall(thread) => {
                if !was_killed && is_write_ahead(thread) {
                    writes += 1;
                    if writes == wanted {
                        was_killed = true;
                        kill(leader, Signal::SIGKILL).unwrap();
                    }
                }
                go_on(thread, None);
            }
            // A new thread, or one that was stopped to be followed.
            WaitStatus::PtraceEvent(thread, _, _) => go_on(thread, None),
            WaitStatus::Stopped(thread, signal) => go_on(thread, Some(signal)),
            WaitStatus::Exited(thread, code) if thread == leader => {
                return End::Itself { writes, code };
            }
            WaitStatus::Signaled(thread, signal, _) if thread == leader => {
                assert!(was_killed && signal == Signal::SIGKILL, "{signal}");
                return End::Killed;
            }
            _ => {}
        }
    }
}

fn seize(leader: Pid) {
    // With its threads, which are there before anything is written; later ones are followed from their first step.
    let options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    for entry in std::fs::read_dir(format!("/proc/{leader}/task")).unwrap() {
        let name = entry.unwrap().file_name();
        let thread = Pid::from_raw(name.to_str().unwrap().parse().unwrap());
        ptrace::seize(thread, options).unwrap();
        ptrace::interrupt(thread).unwrap();
    }
}

/// A thread that was killed meanwhile cannot go on.
fn go_on(thread: Pid, signal: Option<Signal>) {
    let _ = ptrace::syscall(thread, signal);
}

/// Whether the thread is about to change a file, or to tell somebody something.
fn is_write_ahead(thread: Pid) -> bool {
    const ENTRY: u8 = 1;
    let is_entry = ptrace::syscall_info(thread).is_ok_and(|info| info.op == ENTRY);
    let Some((call, first)) = is_entry.then(|| called(thread)).flatten() else {
        return false;
    };
    match call {
        libc::SYS_pwrite64
        | libc::SYS_fdatasync
        | libc::SYS_fsync
        | libc::SYS_ftruncate
        | libc::SYS_unlinkat => true,
        // Everything is told on the error output; other descriptors only wake threads.
        libc::SYS_write => first == 2,
        other => is_old_unlink(other),
    }
}

#[cfg(target_arch = "x86_64")]
fn is_old_unlink(call: i64) -> bool {
    call == libc::SYS_unlink
}

#[cfg(not(target_arch = "x86_64"))]
fn is_old_unlink(_: i64) -> bool {
    false
}

/// Number of the call, and its first argument.
#[cfg(target_arch = "x86_64")]
fn called(thread: Pid) -> Option<(i64, u64)> {
    let registers = ptrace::getregs(thread).ok()?;
    Some((i64::try_from(registers.orig_rax).ok()?, registers.rdi))
}

#[cfg(target_arch = "aarch64")]
fn called(thread: Pid) -> Option<(i64, u64)> {
    let registers = ptrace::getregs(thread).ok()?;
    Some((i64::try_from(registers.regs[8]).ok()?, registers.regs[0]))
}
