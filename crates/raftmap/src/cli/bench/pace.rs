//! Requests at a fixed rate: each is due at its time, whether those before it are answered or not, and its latency counts from
//! then. A store that stands still for a second costs all that were due meanwhile, not one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The pacer looks at the clock no more often, so that it does not take the store's core. What is due within one step counts
/// from when it was due.
const STEP: Duration = Duration::from_micros(200);

/// Tells each of `clients`, in turn, when a request is due: `per_second` of all of them, until it is over.
///
/// # Errors
/// If there can be no thread.
pub(super) fn start(
    per_second: f64,
    clients: usize,
    over: Arc<AtomicBool>,
) -> std::io::Result<Vec<UnboundedReceiver<Instant>>> {
    let (tell, told): (Vec<_>, Vec<_>) = (0..clients).map(|_| unbounded_channel()).unzip();
    std::thread::Builder::new().name("pacer".to_owned()).spawn(move || pace(per_second, &tell, &over))?;
    Ok(told)
}

fn pace(per_second: f64, clients: &[UnboundedSender<Instant>], over: &AtomicBool) {
    let began = Instant::now();
    let mut due = (0_u64..).map(|n| began + after(n, per_second)).zip(clients.iter().cycle()).peekable();
    while !over.load(Ordering::Acquire) {
        while let Some((at, client)) = due.next_if(|(at, _)| *at <= Instant::now()) {
            // A client that is gone has failed, and says so elsewhere.
            let _gone = client.send(at);
        }
        let next = due.peek().map_or(STEP, |(at, _)| at.saturating_duration_since(Instant::now()));
        std::thread::sleep(next.max(STEP));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of requests")]
fn after(requests: u64, per_second: f64) -> Duration {
    Duration::from_secs_f64(requests as f64 / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_due_at_even_times_and_go_round_the_clients() {
        let over = Arc::new(AtomicBool::new(false));
        let mut clients = start(1_000.0, 2, Arc::clone(&over)).unwrap();
        let mut due = Vec::new();
        for n in 0..10 {
            due.push(clients[n % 2].recv().await.unwrap());
        }
        over.store(true, Ordering::Release);
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] == Duration::from_millis(1)), "{due:?}");
    }
}
