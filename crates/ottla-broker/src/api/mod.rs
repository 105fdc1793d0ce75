//! What this broker serves, a function an API.

mod admin;
mod data;
mod discovery;

pub(crate) use admin::*;
pub(crate) use data::*;
pub(crate) use discovery::*;
