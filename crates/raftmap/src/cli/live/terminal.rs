//! The terminal while a view is on it. It is as it was before once this is dropped, also if the program panics.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{Clear, ClearType};
use ratatui::{DefaultTerminal, Frame};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::exit::Failure;

/// How soon the thread that reads keys notices that it is to end.
const POLL: Duration = Duration::from_millis(100);

/// What somebody did at the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A key was hit.
    Key(KeyCode),
    /// Ctrl-C.
    Interrupt,
    /// The terminal has another size.
    Resized,
}

/// A terminal that shows a view.
pub(crate) struct Terminal {
    screen: DefaultTerminal,
    inputs: UnboundedReceiver<Input>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Whether there is a terminal to show something on and to read keys from.
    pub(crate) fn is_there() -> bool {
        use std::io::IsTerminal as _;
        io::stdout().is_terminal()
            && io::stdin().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// Takes the terminal.
    pub(crate) fn take() -> Result<Self, Failure> {
        let failed =
            |error: io::Error| Failure::Failed(format!("this terminal cannot show a live view: {error}"));
        let screen = ratatui::try_init().map_err(|error| {
            // A part of it may have worked.
            let _gone = ratatui::try_restore();
            failed(error)
        })?;
        let (tell, inputs) = unbounded_channel();
        let over = Arc::new(AtomicBool::new(false));
        let mut this = Self { screen, inputs, over: Arc::clone(&over), reader: None };
        // Not every terminal has a second screen that is empty.
        execute!(io::stdout(), Clear(ClearType::All)).map_err(failed)?;
        let read = move || {
            while !over.load(Ordering::Acquire) {
                // Without a terminal there is nothing to read, and whoever waits for keys sees the channel closed.
                let Ok(there) = event::poll(POLL) else { return };
                if there
                    && event::read()
                        .is_ok_and(|event| input(&event).is_some_and(|input| tell.send(input).is_err()))
                {
                    return;
                }
            }
        };
        let reader = std::thread::Builder::new().name("keys".to_owned()).spawn(read);
        this.reader = Some(reader.map_err(failed)?);
        Ok(this)
    }

    /// Shows a screen.
    pub(crate) fn show(&mut self, draw: impl FnOnce(&mut Frame)) -> Result<(), Failure> {
        let shown = self.screen.draw(draw).map(drop);
        shown.map_err(|error| Failure::Failed(format!("the terminal is gone: {error}")))
    }

    /// What is done next at the terminal; `None`: it is gone.
    pub(crate) async fn next(&mut self) -> Option<Input> {
        self.inputs.recv().await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // It ends within a moment, and takes no key from whoever reads the terminal next. At a terminal that is gone it may not.
        let deadline = Instant::now() + 3 * POLL;
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(POLL / 20);
        }
        // A terminal that is gone needs no restoring.
        let _gone = ratatui::try_restore();
    }
}

fn input(event: &Event) -> Option<Input> {
    match event {
        Event::Key(key) if key.kind == KeyEventKind::Release => None,
        Event::Key(key) if key.modifiers.contains(KeyModifiers::CONTROL) => {
            (key.code == KeyCode::Char('c')).then_some(Input::Interrupt)
        }
        Event::Key(key) => Some(Input::Key(key.code)),
        Event::Resize(..) => Some(Input::Resized),
        _ => None,
    }
}
