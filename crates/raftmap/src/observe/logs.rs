//! Structured logs, on standard error.
//!
//! Requests are logged under the target `raftmap::front`, with their `request_id`, the caller, and the code of a
//! failure. Those that failed are logged at `info`, but for overload and deadlines; all of them at `debug`.

use std::io;

use tracing::Subscriber;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter is malformed.
    #[error(
        "log filter {filter:?}: {error}; write a level, or TARGET=LEVEL, separated by commas: info,raftmap=debug"
    )]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        error: ParseError,
    },
    /// Logs were set up before.
    #[error("logs are set up already: {0}")]
    Twice(#[from] TryInitError),
}

/// Sends the logs of this process to standard error. `filter` says how much: a level, or levels by target, such as
/// `info,raftmap::front=debug`.
///
/// # Errors
/// If the filter is malformed, or logs were set up before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogsError> {
    match format {
        LogFormat::Text => text(filter, io::stderr)?.try_init()?,
        LogFormat::Json => json(filter, io::stderr)?.try_init()?,
    }
    Ok(())
}

fn text<W>(filter: &str, writer: W) -> Result<impl Subscriber + Send + Sync + 'static, LogsError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_ansi(false).with_writer(writer);
    Ok(tracing_subscriber::registry().with(lines.with_filter(targets(filter)?)))
}

fn json<W>(filter: &str, writer: W) -> Result<impl Subscriber + Send + Sync + 'static, LogsError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().json().flatten_event(true).with_writer(writer);
    Ok(tracing_subscriber::registry().with(lines.with_filter(targets(filter)?)))
}

fn targets(filter: &str) -> Result<Targets, LogsError> {
    filter.parse().map_err(|error| LogsError::Filter { filter: filter.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(lines: &Lines) -> String {
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_lines_carry_their_fields_and_pass_the_filter() {
        let lines = Lines::default();
        let subscriber = json("warn,noted=info", {
            let lines = lines.clone();
            move || lines.clone()
        });
        tracing::subscriber::with_default(subscriber.unwrap(), || {
            tracing::info!(target: "noted", request_id = "r-1", "seen");
            tracing::debug!(target: "noted", "not seen");
            tracing::info!(target: "other", "not seen");
        });
        let line: serde_json::Value = serde_json::from_str(&written(&lines)).unwrap();
        assert_eq!(line["request_id"], "r-1");
        assert_eq!(line["message"], "seen");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn text_lines_are_plain() {
        let lines = Lines::default();
        let subscriber = text("info", {
            let lines = lines.clone();
            move || lines.clone()
        });
        tracing::subscriber::with_default(subscriber.unwrap(), || {
            tracing::info!(request_id = "r-1", "seen");
        });
        let line = written(&lines);
        assert!(line.contains("seen request_id=\"r-1\""), "{line}");
        assert!(!line.contains('\u{1b}'), "no colours: {line}");
    }

    #[test]
    fn a_malformed_filter_is_an_error() {
        assert!(matches!(text("info,raftmap=loud", io::sink), Err(LogsError::Filter { .. })));
    }
}
