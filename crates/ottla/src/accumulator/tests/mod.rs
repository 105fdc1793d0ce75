//! Tests of the accumulator in virtual time, without a sender (CASES A2).

mod append;
mod extend;
mod grow;
mod threads;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::append::{AppendResult, AppendState};
use crate::config::{AccumulatorSettings, Compression};
use crate::delivery::batch_completions::DeliveryOptions;
use crate::record::{PreparedRecord, Record};
use crate::sender::ready::DrainContext;
use crate::sender::tests::{AccumulatorFixture, MS, acknowledge, settings};
use crate::sim::{Faults, SimMachine};
use crate::wakeup::caller_context::CallerContext;
use crate::wakeup::event_queue::Event;
