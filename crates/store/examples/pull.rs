//! Fetches models from where the catalogue says they are, and says how long it took:
//! `cargo run --release -p store --example pull -- FOLDER REFERENCE…`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use store::{Progress, Reference, Store};

#[tokio::main]
async fn main() -> ExitCode {
    match pull().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn pull() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let home = arguments.next().map(PathBuf::from).ok_or("usage: pull FOLDER REFERENCE…")?;
    let store = Store::new(home);
    for text in arguments {
        let reference = Reference::parse(&text, store.catalogue())?;
        let (started, mut said) = (Instant::now(), None);
        let mut observer = |progress: &Progress<'_>| {
            let percent = progress.bytes_total.map(|total| progress.bytes_done * 100 / total.max(1));
            let line = (progress.phase, percent.map(|percent| percent / 10 * 10));
            if said.replace(line) != Some(line) {
                eprintln!("{:6.1} s  {}  {line:?}", started.elapsed().as_secs_f64(), progress.model);
            }
        };
        let path = store.pull(&reference, &mut observer).await?;
        println!("{}  {:.1} s", path.display(), started.elapsed().as_secs_f64());
    }
    Ok(())
}
