//! `raftmap top`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use raftmap::survey::Watch;
use ratatui::crossterm::event::KeyCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::connect::{ConnectArgs, block_on};
use super::exit::{self, Failure};
use super::live::history::History;
use super::live::screen::Screen;
use super::live::terminal::{Input, Terminal};

const EXAMPLES: &str = "\
Examples:
    raftmap top
  Four times a second:
    raftmap top --every-ms 250
  For programs, and without a terminal:
    raftmap status --json";

/// Watch a cluster: its servers, its rates, and what happens to it
///
/// Asks every server again and again, over one connection to each. Servers that come are watched, too. Ends at `q`.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Top {
    /// How often each server is asked
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    every_ms: u64,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// How often the screen is drawn.
const FRAME: Duration = Duration::from_millis(250);

const KEYS: [(&str, &str); 1] = [("q", "quit")];

impl Top {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let (endpoints, security) = (self.connect.endpoints()?.to_vec(), self.connect.security()?);
        if !Terminal::is_there() {
            let message =
                "this shows a live view, for which it needs a terminal; `raftmap status --json` does without";
            return Err(Failure::Usage(message.to_owned()));
        }
        let every = Duration::from_millis(self.every_ms);
        block_on(async {
            let failed = |error| Failure::Failed(format!("no signals: {error}"));
            let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
            let watch = Watch::start(&endpoints, security, every);
            // What loses is dropped, and with it the view on the terminal.
            tokio::select! {
                quit = watch_until_quit(watch, Terminal::take()?) => quit,
                _ = terminate.recv() => Err(Failure::Interrupted),
                _ = interrupt.recv() => Err(Failure::Interrupted),
                _ = hangup.recv() => Err(Failure::Interrupted),
            }
        })
    }
}

async fn watch_until_quit(mut watch: Watch, mut terminal: Terminal) -> Result<(), Failure> {
    let (mut history, done_to) = (History::new(Instant::now()), BTreeMap::new());
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = frames.tick() => {}
            input = terminal.next() => match input {
                None | Some(Input::Key(KeyCode::Char('q') | KeyCode::Esc)) => return Ok(()),
                Some(Input::Interrupt) => return Err(Failure::Interrupted),
                Some(Input::Key(_) | Input::Resized) => {}
            },
        }
        let now = Instant::now();
        history.see(now, watch.view());
        let screen = Screen {
            title: "raftmap top",
            age: history.age(now),
            history: &history,
            selected: None,
            done_to: &done_to,
            promise: None,
            latency: None,
            keys: &KEYS,
            overlay: None,
        };
        terminal.show(|frame| screen.draw(frame))?;
    }
}
