//! The thread around the sender: one small function.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Sender;
use crate::error::{Error, ErrorKind};
use crate::network::io::Io;

/// Runs the sender to its end. A panic ends every record and caller with its text.
pub(crate) fn run<I: Io>(mut sender: Sender<I>) {
    sender.accumulator.caller_context.set_sender_thread();
    let result = catch_unwind(AssertUnwindSafe(|| while sender.run_once() {}));
    if let Err(panic) = result {
        let text = (panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no text".to_owned());
        tracing::error!("the sender panicked: {text}");
        let why = format!("the sender panicked: {text}; this is a bug of ottla, please report it");
        let why = Error::new(ErrorKind::Internal, why).into_fatal();
        if catch_unwind(AssertUnwindSafe(|| sender.shut_down(&why))).is_err() {
            tracing::error!("the sender panicked again while it ended");
        }
    }
}
