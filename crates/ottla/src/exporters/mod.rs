//! The producer's metrics and spans in the libraries that applications use for theirs, one feature
//! each.

#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "opentelemetry")]
mod spans;
#[cfg(feature = "opentelemetry")]
mod instruments;

#[cfg(feature = "opentelemetry")]
pub use instruments::register_opentelemetry_metrics;
#[cfg(feature = "metrics")]
pub use metrics::record_metrics;
#[cfg(feature = "opentelemetry")]
pub use spans::OpenTelemetryInterceptor;
