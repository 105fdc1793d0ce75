//! Bytes and lengths, nothing of their meaning: the seam to the machine, one socket's channel, and the
//! selector that drives them all.

pub(crate) mod io;
pub(crate) mod channel;
pub(crate) mod selector;
