//! The class that Kafka's Java producer throws for an error.

use ottla::{Error, ErrorCode, ErrorKind};

const ERRORS: &str = "org.apache.kafka.common.errors.";
const KAFKA_EXCEPTION: &str = "org.apache.kafka.common.KafkaException";

/// Returns the class, with its package, of the exception that the Java producer has for an error.
pub(super) fn java_exception(e: &Error) -> String {
    let simple = match e.kind() {
        ErrorKind::DeliveryTimeout | ErrorKind::MetadataTimeout => "TimeoutException",
        ErrorKind::BufferExhausted => {
            return "org.apache.kafka.clients.producer.BufferExhaustedException".to_owned();
        }
        ErrorKind::BatchRejected => return KAFKA_EXCEPTION.to_owned(),
        ErrorKind::RecordTooLarge => "RecordTooLargeException",
        ErrorKind::InvalidTopic => "InvalidTopicException",
        ErrorKind::Serialization => "SerializationException",
        ErrorKind::Network => "NetworkException",
        _ => {
            return match e.code() {
                Some(code) => of_code(code),
                None if e.kind() == ErrorKind::InvalidRecord => {
                    "java.lang.IllegalArgumentException".to_owned()
                }
                None => KAFKA_EXCEPTION.to_owned(),
            };
        }
    };
    format!("{ERRORS}{simple}")
}

/// Returns the class for an error code of a broker. Kafka names most classes after the code.
fn of_code(code: ErrorCode) -> String {
    let simple = match code {
        ErrorCode::UNKNOWN_SERVER_ERROR => "UnknownServerException",
        ErrorCode::CORRUPT_MESSAGE => "CorruptRecordException",
        ErrorCode::REQUEST_TIMED_OUT => "TimeoutException",
        ErrorCode::MESSAGE_TOO_LARGE => "RecordTooLargeException",
        ErrorCode::RECORD_LIST_TOO_LARGE => "RecordBatchTooLargeException",
        ErrorCode::KAFKA_STORAGE_ERROR => "KafkaStorageException",
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER => "OutOfOrderSequenceException",
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER => "DuplicateSequenceException",
        ErrorCode::INVALID_PRODUCER_ID_MAPPING => "InvalidPidMappingException",
        ErrorCode::INVALID_RECORD => {
            return "org.apache.kafka.common.InvalidRecordException".to_owned();
        }
        _ => match code.name() {
            Some(name) => return format!("{ERRORS}{}", class_name(name)),
            None => "UnknownServerException",
        },
    };
    format!("{ERRORS}{simple}")
}

/// Returns `NotEnoughReplicasException` for `NOT_ENOUGH_REPLICAS`, and
/// `TopicAuthorizationException` for `TOPIC_AUTHORIZATION_FAILED`.
fn class_name(code_name: &str) -> String {
    let words = code_name.split('_').filter(|word| !matches!(*word, "EXCEPTION" | "FAILED"));
    let mut class = String::new();
    for word in words {
        let (first, rest) = word.split_at(word.len().min(1));
        class += first;
        class += &rest.to_lowercase();
    }
    class + "Exception"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_classes_of_the_java_client() {
        for (code, class) in [
            (ErrorCode::NOT_ENOUGH_REPLICAS, "NotEnoughReplicasException"),
            (ErrorCode::NOT_LEADER_OR_FOLLOWER, "NotLeaderOrFollowerException"),
            (ErrorCode::INVALID_TOPIC_EXCEPTION, "InvalidTopicException"),
            (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "UnknownTopicOrPartitionException"),
            (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "TopicAuthorizationException"),
            (ErrorCode::CORRUPT_MESSAGE, "CorruptRecordException"),
        ] {
            assert_eq!(of_code(code), format!("{ERRORS}{class}"));
        }
    }
}
