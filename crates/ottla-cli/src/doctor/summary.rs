//! What a report says about the cluster, found out with the doctor's steps.

use std::collections::BTreeMap;

use ottla::ProducerConfig;

use super::cluster::request_metadata;
use super::kafka_release::kafka_release;
use super::network::{finalized_features, versions};
use super::topic_lookup::connect_to_first;

/// Returns id, size, release and features of the cluster, from the first bootstrap server that
/// works. What cannot be found out is left out: a report is of use without it.
pub(crate) fn cluster_summary(config: &ProducerConfig) -> BTreeMap<String, String> {
    let mut summary = BTreeMap::new();
    let Ok((mut probe, mut connection)) = connect_to_first(config) else { return summary };
    if let Ok((versions, _)) = versions(&mut probe, &mut connection) {
        summary.extend(kafka_release(&versions).map(|release| ("release".to_owned(), release)));
        let features = finalized_features(&versions);
        if !features.is_empty() {
            summary.insert("features".to_owned(), features.join(", "));
        }
    }
    if let Ok(metadata) = request_metadata(&mut probe, &mut connection, None) {
        summary.extend(metadata.cluster_id.map(|id| ("id".to_owned(), id)));
        summary.insert("brokers".to_owned(), metadata.brokers.len().to_string());
    }
    probe.close(&connection);
    summary
}
