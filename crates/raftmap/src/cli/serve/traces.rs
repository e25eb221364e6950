//! Where the spans of requests go.

use clap::Args;
use raftmap::observe::traces::{Collector, Exporter, Tracer};
use raftmap_log::Identity;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Args)]
#[command(next_help_heading = "Traces")]
pub(super) struct TraceArgs {
    /// Send what servers do for requests to this OpenTelemetry collector, by OTLP over HTTP, as in http://127.0.0.1:4318
    /// [default: nowhere]
    #[arg(long, value_name = "URL")]
    traces_to: Option<Collector>,

    /// Of the requests whose callers do not ask for it themselves, follow this share, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    traces_ratio: f64,
}

/// The way of the spans, while the server runs.
pub(super) struct Traces {
    pub(super) tracer: Tracer,
    exporter: Option<(CancellationToken, JoinHandle<()>)>,
}

impl TraceArgs {
    /// Begins to send, if there is somebody to send to.
    pub(super) fn begin(&self, identity: &Identity) -> Traces {
        let Some(collector) = self.traces_to.clone() else {
            return Traces { tracer: Tracer::off(), exporter: None };
        };
        tracing::info!(%collector, ratio = self.traces_ratio, "requests are followed");
        let (tracer, spans) = Tracer::new(self.traces_ratio);
        let instance = format!("{:032x}/{}", identity.cluster(), identity.node());
        let stop = CancellationToken::new();
        let exporter = Exporter::new(collector, instance, spans).run(stop.clone());
        Traces { tracer, exporter: Some((stop, tokio::spawn(exporter))) }
    }
}

impl Traces {
    /// Sends what is left, if that takes no longer than a second or two.
    pub(super) async fn end(self) {
        let Some((stop, exporter)) = self.exporter else { return };
        stop.cancel();
        // One that panicked has told so.
        let _panicked = exporter.await;
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a number from 0 (none) to 1 (all), as 0.01".to_owned()),
    }
}
