//! The first process of a pod, and of a machine of the tests' cluster: it waits, and buries whoever dies without parents. Built by `rustc` alone, as one
//! static program.

use std::{ffi::c_int, ptr, thread, time::Duration};

unsafe extern "C" {
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn waitpid(id: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
}

const INTERRUPT: c_int = 2;
const TERMINATE: c_int = 15;

/// For a pod whose processes are none of its children, as most are.
const NOBODY: Duration = Duration::from_secs(3);

/// The kernel drops signals that the first process has not asked for.
extern "C" fn end(_: c_int) {
    // SAFETY: it ends the process without touching anything, which a handler may.
    unsafe { _exit(0) }
}

fn main() {
    for number in [INTERRUPT, TERMINATE] {
        // SAFETY: the handler only ends the process.
        unsafe { signal(number, end) };
    }
    loop {
        // SAFETY: a null status is one that nobody wants.
        if unsafe { waitpid(-1, ptr::null_mut(), 0) } < 0 {
            thread::sleep(NOBODY);
        }
    }
}
