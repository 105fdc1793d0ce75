//! Which release of Kafka a broker is, by its features. The protocol does not name it.

use ottla_protocol::messages::ApiVersionsResponse;

/// The feature whose level grows with the releases (Kafka's `MetadataVersion`).
const METADATA_VERSION: &str = "metadata.version";

/// The highest level of `metadata.version` that each release supports.
const RELEASES: [(i16, &str); 12] = [
    (7, "3.3"),
    (8, "3.4"),
    (11, "3.5"),
    (14, "3.6"),
    (19, "3.7"),
    (20, "3.8"),
    (21, "3.9"),
    (25, "4.0"),
    (27, "4.1"),
    (29, "4.2"),
    (30, "4.3"),
    (33, "4.4"),
];

/// Returns the release, such as `Kafka 4.3`; `None` for brokers without this feature: Kafka before
/// 3.3, with ZooKeeper, or of other vendors.
pub(super) fn kafka_release(response: &ApiVersionsResponse) -> Option<String> {
    // What the broker supports, not what the cluster has finalized: an upgrade raises that later.
    let feature = response.supported_features.iter().find(|f| f.name == METADATA_VERSION)?;
    let known = RELEASES.iter().find(|(level, _)| feature.max_version <= *level);
    Some(match known {
        Some((_, release)) => format!("Kafka {release}"),
        None => format!("Kafka newer than {}", RELEASES[RELEASES.len() - 1].1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::messages::SupportedFeatureKey;

    fn release(name: &str, max_version: i16) -> Option<String> {
        let feature = SupportedFeatureKey {
            name: name.into(),
            min_version: 1,
            max_version,
            ..SupportedFeatureKey::default()
        };
        let response =
            ApiVersionsResponse { supported_features: vec![feature], ..Default::default() };
        kafka_release(&response)
    }

    #[test]
    fn release_is_that_of_the_highest_supported_metadata_version() {
        for (level, expected) in [
            (1, "Kafka 3.3"),
            (7, "Kafka 3.3"),
            (9, "Kafka 3.5"),
            (25, "Kafka 4.0"),
            (26, "Kafka 4.1"),
            (30, "Kafka 4.3"),
            (31, "Kafka 4.4"),
            (33, "Kafka 4.4"),
            (34, "Kafka newer than 4.4"),
        ] {
            assert_eq!(release(METADATA_VERSION, level).as_deref(), Some(expected));
        }
        assert_eq!(release("transaction.version", 2), None);
    }
}
