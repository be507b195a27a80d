//! Every major of PostgreSQL, over the whole road: made by a script, copied, followed, snapshotted and restored, and compared row by row
//! and page by page.

#![allow(clippy::unwrap_used)]

mod content;
mod matrix;
mod pages;
mod proof;
mod road;
mod rows;
mod tools;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use matrix::{MAJORS, Matrix};

/// Majors under way at once, each thread with a server of its own.
const AT_ONCE: usize = 2;

#[test]
fn every_major_goes_the_whole_road() {
    let (matrix, next) = (Matrix::default(), AtomicUsize::new(0));
    let wanted = std::env::var("KUBEDB_MAJORS").ok();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let mut world = None;
                while let Some(major) = MAJORS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let is_wanted = |list: &String| list.split(',').any(|one| one == *major);
                    if !wanted.as_ref().is_none_or(is_wanted) {
                        continue;
                    }
                    // A major that fails takes its server along; the others have a new one.
                    let begun = world.take().unwrap_or_default();
                    let walked = catch_unwind(AssertUnwindSafe(|| {
                        road::walk(&begun, matrix.column(major));
                    }));
                    match walked {
                        Ok(()) => world = Some(begun),
                        Err(reason) => matrix.failed(major, &words(reason.as_ref())),
                    }
                }
            });
        }
    });
    matrix.conclude();
}

/// What a panic said.
fn words(reason: &(dyn std::any::Any + Send)) -> String {
    let text = reason.downcast_ref::<String>().cloned();
    let text = text.or_else(|| reason.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "it panicked".to_owned())
}
