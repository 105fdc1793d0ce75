//! What the tests of transactions share: transactional producers, their calls, and what arrived.

use ottla::{Error, Transaction};
use ottla_protocol::{ApiKey, ErrorCode};

use crate::producer_fixture::ProducerFixture;
use crate::request_faults::RequestFault;

/// Both versions of the protocol.
pub(crate) const VERSIONS: [i16; 2] = [1, 2];

/// Faults after which a request goes to the coordinator that FindCoordinator names.
pub(crate) const FAULTS_BEFORE_A_LOOKUP: [RequestFault; 4] = [
    RequestFault::LoseRequest,
    RequestFault::LoseResponse,
    RequestFault::Respond(ErrorCode::NOT_COORDINATOR),
    RequestFault::Respond(ErrorCode::COORDINATOR_NOT_AVAILABLE),
];

/// Returns a transactional producer, before `init_transactions`.
pub(crate) fn uninitialized(version: i16, settings: &[(&str, &str)]) -> ProducerFixture {
    let mut all = vec![("transactional.id", "t-1")];
    all.extend(settings);
    let mut fixture = ProducerFixture::with_nodes(1, &all);
    fixture.cluster.core.set_transaction_version(version);
    fixture
}

/// Returns a transactional producer that can begin a transaction.
pub(crate) fn initialized(version: i16) -> ProducerFixture {
    initialized_with(version, &[])
}

pub(crate) fn initialized_with(version: i16, settings: &[(&str, &str)]) -> ProducerFixture {
    let mut fixture = uninitialized(version, settings);
    fixture.init().unwrap();
    fixture
}

impl ProducerFixture {
    pub(crate) fn init(&mut self) -> Result<(), Error> {
        let producer = self.producer.clone();
        self.block_on(producer.init_transactions_async())
    }

    pub(crate) fn begin(&mut self) -> Transaction {
        let producer = self.producer.clone();
        self.block_on(producer.begin_transaction_async()).unwrap()
    }

    pub(crate) fn commit(&mut self, transaction: &mut Transaction) -> Result<(), Error> {
        self.block_on(transaction.commit_async())
    }

    pub(crate) fn abort_transaction(&mut self, transaction: &mut Transaction) -> Result<(), Error> {
        self.block_on(transaction.abort_async())
    }

    /// Checks that the first request of this kind was sent again right behind FindCoordinator.
    pub(crate) fn assert_sent_again_after_a_lookup(&mut self, api: ApiKey, context: &str) {
        let arrived = self.take_arrived();
        let first = arrived.iter().position(|a| *a == api).unwrap();
        let again = &arrived[first + 1..][..2];
        assert_eq!(again, [ApiKey::FIND_COORDINATOR, api], "{api:?} {context}");
    }

    /// Commits a transaction with one record.
    pub(crate) fn commit_one(&mut self, value: &str) {
        let mut transaction = self.begin();
        self.send(0, value);
        self.commit(&mut transaction).unwrap();
    }

    pub(crate) fn plan(&mut self, api: ApiKey, fault: RequestFault) {
        self.cluster.request_faults.push(api, fault);
    }

    /// Returns the transactional requests that have arrived since the last call.
    pub(crate) fn take_arrived(&mut self) -> Vec<ApiKey> {
        std::mem::take(&mut self.cluster.request_faults.arrived)
    }

    /// Returns the values of partition 0 of `t` that a `read_committed` consumer sees.
    pub(crate) fn committed_values(&mut self) -> Vec<String> {
        let records = self.cluster.core.records("t").unwrap().into_iter();
        let committed = records.filter(|r| r.partition == 0 && r.is_committed());
        committed.map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()).collect()
    }
}

pub(crate) fn source_of(e: &Error) -> String {
    std::error::Error::source(e).map_or_else(String::new, ToString::to_string)
}
