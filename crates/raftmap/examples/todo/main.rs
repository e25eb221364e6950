//! A to-do list as a small website, which keeps its items in raftmap.
//!
//! ```text
//! cargo run --release -- demo          # in one terminal: three servers to kill; `?` says how to reach them
//! export RAFTMAP_CERTS=raftmap-demo/certs RAFTMAP_ENDPOINTS=127.0.0.1:...
//! cargo run --release --example todo   # in another one
//! ```
//!
//! Then open http://127.0.0.1:8080, add items, and kill servers meanwhile: an item that is shown as saved is there afterwards, however many
//! servers died. `TODO_LISTEN` chooses another address.

mod app;

use std::error::Error;

use raftmap_client::{Client, Tls};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let setting = |name: &str| std::env::var(name).map_err(|_| format!("which one? Set {name}"));
    let (endpoints, certs) = (setting("RAFTMAP_ENDPOINTS")?, setting("RAFTMAP_CERTS")?);
    let name = std::env::var("RAFTMAP_AS").unwrap_or_else(|_| "client".to_owned());
    let read = |file: String| std::fs::read(format!("{certs}/{file}"));
    let tls =
        Tls::new(read("ca.pem".to_owned())?, read(format!("{name}.pem"))?, read(format!("{name}.key"))?);
    let client = Client::connect(endpoints.split(',').map(str::to_owned), tls).await?;
    let listener =
        TcpListener::bind(std::env::var("TODO_LISTEN").as_deref().unwrap_or("127.0.0.1:8080")).await?;
    println!("the list is at http://{}", listener.local_addr()?);
    app::serve(listener, client).await?;
    Ok(())
}
