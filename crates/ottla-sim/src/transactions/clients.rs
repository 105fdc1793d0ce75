//! The clients of a run: one producer with its sender and its machine for each process of an
//! instance.
//!
//! An instance starts and kills its processes by itself. The simulation drives their senders.

use std::cell::RefCell;
use std::rc::Rc;

use ottla::Producer;
use ottla::sim::{SimMachine, SimSender, Tick, build};

use crate::environment::transactional_id;
use crate::history::HandlerOutcomes;
use crate::scenario::Scenario;

/// A process with a producer.
pub(super) struct Client {
    pub(super) number: u32,
    pub(super) instance: u64,
    pub(super) machine: SimMachine,
    pub(super) producer: Producer,
    /// `None` once the process has ended.
    pub(super) sender: Option<SimSender>,
    /// The sender sleeps until then, unless it is woken.
    pub(super) sender_deadline: Tick,
}

impl Client {
    /// Ends the process, as SIGKILL does: bytes that the socket has accepted may still arrive.
    pub(super) fn kill(&mut self) {
        if let Some(mut sender) = self.sender.take() {
            sender.abort();
            self.machine.drop_client();
            self.sender_deadline = Tick::NEVER;
        }
    }
}

/// What instances request from the simulation.
#[derive(Clone)]
pub(super) struct Processes(Rc<RefCell<Requests>>);

struct Requests {
    /// A machine in the same network, without a client.
    network: SimMachine,
    last_number: u32,
    started: Vec<Client>,
    killed: Vec<u32>,
    outcomes: HandlerOutcomes,
}

impl Processes {
    pub(super) fn new(network: SimMachine, outcomes: HandlerOutcomes) -> Processes {
        Processes(Rc::new(RefCell::new(Requests {
            network,
            last_number: 0,
            started: Vec::new(),
            killed: Vec::new(),
            outcomes,
        })))
    }

    /// Starts a process of an instance. Returns its number and its producer.
    pub(super) fn start(&self, s: &Scenario, instance: u64, id: u64) -> (u32, Producer) {
        let mut requests = self.0.borrow_mut();
        requests.last_number += 1;
        let number = requests.last_number;
        let machine = requests.network.another(number, s.seed ^ (u64::from(number) << 20));
        let (outcomes, clock) = (requests.outcomes.clone(), machine.clone());
        let builder = s
            .producer_builder()
            .client_id(format!("instance-{instance}"))
            .transactional_id(transactional_id(id))
            .set("transaction.timeout.ms", s.transaction_timeout_ms.to_string())
            .delivery_handler(move |report| outcomes.record(report, clock.now()));
        let (producer, mut sender) = build(builder, &machine).expect("the settings are valid");
        let sender_deadline = sender.send_producer_data();
        requests.started.push(Client {
            number,
            instance,
            machine,
            producer: producer.clone(),
            sender: Some(sender),
            sender_deadline,
        });
        (number, producer)
    }

    /// Requests the end of a process, as by SIGKILL.
    pub(super) fn kill(&self, number: u32) {
        self.0.borrow_mut().killed.push(number);
    }

    pub(super) fn take_started(&self) -> Vec<Client> {
        std::mem::take(&mut self.0.borrow_mut().started)
    }

    pub(super) fn take_killed(&self) -> Vec<u32> {
        std::mem::take(&mut self.0.borrow_mut().killed)
    }
}
