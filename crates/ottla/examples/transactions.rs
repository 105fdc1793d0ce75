//! Transactions: transfers between accounts, each of them two records or none (KIP-98).
//!
//! Run it with `cargo run --example transactions -- localhost:9092 transfers`. A consumer with
//! `isolation.level=read_committed` sees both records of a transfer, or none.

use std::collections::BTreeMap;
use std::error::Error;

use ottla::{Producer, Record};

/// A transfer between two accounts.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// The account that pays.
    pub from: &'static str,
    /// The account that receives.
    pub to: &'static str,
    /// The amount.
    pub amount: i64,
}

/// What became of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both records are committed.
    Committed,
    /// The account that pays does not have the amount, so the transaction was aborted.
    Refused,
}

/// Writes both records of a transfer in one transaction.
///
/// The drop of a transaction aborts it. So an early return, also by `?`, commits nothing.
///
/// # Errors
/// The transaction failed. If [`ottla::Error::requires_abort`] is true, it was aborted and can be
/// repeated with the same producer. After a time-out, the commit continues, and whether it succeeds
/// is not known. After a fatal error, the producer can do nothing more.
pub fn transfer(
    producer: &Producer,
    topic: &str,
    balances: &mut BTreeMap<&'static str, i64>,
    transfer: Transfer,
) -> Result<Outcome, ottla::Error> {
    let Transfer { from, to, amount } = transfer;
    let balance = |account| balances.get(account).copied().unwrap_or(0);
    let (left, received) = (balance(from) - amount, balance(to) + amount);

    let mut transaction = producer.begin_transaction()?;
    let debit = producer.send(Record::to(topic).key(from).value(&*left.to_string()))?;
    if left < 0 {
        // Here only to show that an abort also hides what the broker has acknowledged: waiting for
        // single records makes transactions slow, and `commit` waits for all of them.
        debit.wait()?;
        transaction.abort()?;
        return Ok(Outcome::Refused);
    }
    producer.enqueue(Record::to(topic).key(to).value(&*received.to_string()))?;
    if let Err(e) = transaction.commit() {
        if e.requires_abort() {
            transaction.abort()?;
        }
        return Err(e);
    }
    balances.insert(from, left);
    balances.insert(to, received);
    Ok(Outcome::Committed)
}

/// Makes three transfers. One of them is refused.
///
/// # Errors
/// The producer cannot be built, or a transaction failed.
pub fn run(servers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    // An instance of the service that is started again uses the same id. Its `init_transactions`
    // aborts what the former instance has left open, and fences that instance.
    let producer = Producer::builder()
        .bootstrap_servers(servers)
        .transactional_id(format!("{topic}-1"))
        .build()?;
    producer.init_transactions()?;
    let mut balances = BTreeMap::from([("anna", 100), ("ben", 0)]);
    for (from, to, amount) in [("anna", "ben", 30), ("ben", "anna", 50), ("ben", "anna", 10)] {
        let t = Transfer { from, to, amount };
        let outcome = transfer(&producer, topic, &mut balances, t)?;
        println!("{amount} from {from} to {to}: {outcome:?}");
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let servers = args.next().unwrap_or_else(|| "localhost:9092".into());
    run(&servers, &args.next().unwrap_or_else(|| "transfers".into()))
}
