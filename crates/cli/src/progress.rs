//! How far a fetch has come, on stderr: a bar in a terminal, now and then a line elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use store::{Observer, Phase, Progress};

/// Least time between two lines about one model where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar that is redrawn.
    Bar,
    /// Plain lines, at most one in five seconds.
    Lines,
    /// Nothing.
    Silent,
}

/// Shows what a [`store::Store`] tells.
pub struct Shown {
    style: Style,
    bar: Option<ProgressBar>,
    phase: Option<Phase>,
    last_line: Option<Instant>,
}

impl Shown {
    /// Shows nothing before the first report.
    pub fn new(style: Style) -> Self {
        Shown { style, bar: None, phase: None, last_line: None }
    }

    fn draw(&mut self, progress: &Progress<'_>) {
        let bar = self.bar.get_or_insert_with(|| ProgressBar::new(0));
        if self.phase.replace(progress.phase) != Some(progress.phase) {
            let template = match progress.phase {
                Phase::Waiting => "{msg} {spinner}",
                _ => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.reset_eta();
            bar.set_message(format!("{} {}", verb(progress.phase), progress.model));
        }
        bar.set_length(progress.bytes_total.unwrap_or(progress.bytes_done));
        bar.set_position(progress.bytes_done);
    }

    /// A line at a phase's beginning (but for waiting, which is seldom long) and now and then.
    fn line_due(&mut self, progress: &Progress<'_>, now: Instant) -> bool {
        let begins = self.phase.replace(progress.phase) != Some(progress.phase);
        let due = self.last_line.is_none_or(|last| now.duration_since(last) >= LINE_INTERVAL);
        let is_due = due || (begins && progress.phase == Phase::Downloading);
        if is_due && progress.phase == Phase::Waiting && begins {
            return false;
        }
        if is_due {
            self.last_line = Some(now);
        }
        is_due
    }
}

/// A bar over `total` steps of a computation; hidden without a terminal.
pub fn counter(what: &'static str, total: u64, is_terminal: bool) -> ProgressBar {
    if !is_terminal {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar
}

impl Observer for Shown {
    fn progress(&mut self, progress: &Progress<'_>) {
        match self.style {
            Style::Silent => {}
            Style::Bar => self.draw(progress),
            Style::Lines => {
                if self.line_due(progress, Instant::now()) {
                    eprintln!("{}", line(progress));
                }
            }
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn verb(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting for another process that fetches",
        Phase::Downloading => "fetching",
        Phase::Verifying => "verifying",
    }
}

fn line(progress: &Progress<'_>) -> String {
    let (verb, model) = (verb(progress.phase), progress.model);
    let done = crate::output::size(progress.bytes_done);
    match progress.bytes_total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = progress.bytes_done.min(total) as f64 / total as f64 * 100.0;
            format!("{verb} {model}: {percent:.0}% of {}", crate::output::size(total))
        }
        None => format!("{verb} {model}: {done}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(phase: Phase, bytes_done: u64) -> Progress<'static> {
        Progress { model: "m", phase, bytes_done, bytes_total: Some(200 << 20) }
    }

    #[test]
    fn lines_are_few() {
        let mut shown = Shown::new(Style::Lines);
        let start = Instant::now();
        let mut due = |phase, ms| shown.line_due(&progress(phase, 0), start + Duration::from_millis(ms));
        assert!(!due(Phase::Waiting, 0));
        assert!(due(Phase::Downloading, 100));
        assert!(!due(Phase::Downloading, 200));
        assert!(!due(Phase::Downloading, 4_900));
        assert!(due(Phase::Downloading, 5_200));
        assert!(!due(Phase::Verifying, 5_300));
    }

    #[test]
    fn a_line_says_how_far_it_is() {
        assert_eq!(line(&progress(Phase::Downloading, 50 << 20)), "fetching m: 25% of 200.0 MiB");
        let unknown = Progress { bytes_total: None, ..progress(Phase::Downloading, 1 << 20) };
        assert_eq!(line(&unknown), "fetching m: 1.0 MiB");
    }
}
