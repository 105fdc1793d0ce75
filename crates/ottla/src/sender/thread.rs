//! The sender thread: repeats [`Sender::run_once`] until the sender is shut down.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Sender;
use crate::error::{Error, ErrorKind};
use crate::network::io::Io;

/// Logs an error. The application's log may be why the sender panicked: standard error whose
/// reader has gone makes some of them panic.
fn log_error(message: &str) {
    let log = || {
        tracing::error!(
            name: "ottla.panicked",
            target: "ottla::producer",
            "{message}"
        );
    };
    let _ = catch_unwind(log);
}

/// Runs the sender until it is shut down. After a panic, all records and waiting callers fail with
/// the panic's message.
pub(crate) fn run<I: Io>(mut sender: Sender<I>) {
    let accumulator = sender.accumulator.clone();
    accumulator.caller_context.set_sender_thread();
    let result = catch_unwind(AssertUnwindSafe(|| while sender.run_once() {}));
    if let Err(panic) = result {
        let message = (panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        log_error(&format!("the sender panicked: {message}"));
        let reason =
            format!("the sender panicked: {message}; this is a bug in ottla, please report it");
        let error = Error::new(ErrorKind::Internal, reason).into_fatal();
        if catch_unwind(AssertUnwindSafe(|| sender.end_with_fatal_error(&error))).is_err() {
            log_error("the sender panicked again during the shutdown");
            accumulator.events().pending_posts.sender_ended();
        }
    }
}
