//! What a check found: a [`Line`] per subject with its figures, and whether they are within tolerance.

use std::time::Instant;

/// The figures of one subject: a model, a text, a client.
#[derive(Debug)]
pub struct Line {
    subject: String,
    figures: Vec<String>,
    within: bool,
}

impl Line {
    /// No figures yet.
    pub fn new(subject: impl Into<String>) -> Self {
        Line { subject: subject.into(), figures: Vec::new(), within: true }
    }

    /// A figure without a tolerance.
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.figures.push(text.into());
        self
    }

    /// A figure that may not be above its limit. What is no number is.
    pub fn at_most(self, name: &str, value: f64, limit: f64) -> Self {
        let sign = if value <= limit { "≤" } else { "NOT ≤" };
        self.require(value <= limit, format!("{name} {} {sign} {}", shown(value), shown(limit)))
    }

    /// A figure that may not be below its limit. What is no number is.
    pub fn at_least(self, name: &str, value: f64, limit: f64) -> Self {
        let sign = if value >= limit { "≥" } else { "NOT ≥" };
        self.require(value >= limit, format!("{name} {} {sign} {}", shown(value), shown(limit)))
    }

    /// All of `total` must hold, and there must be one at least; `first_wrong` tells the first that does not.
    pub fn all(self, name: &str, (right, total): (usize, usize), first_wrong: Option<&str>) -> Self {
        let wrong = first_wrong.map(|wrong| format!("; first wrong: {wrong}")).unwrap_or_default();
        self.require(right == total && total > 0, format!("{name} {right} of {total}{wrong}"))
    }

    /// Something that must hold, as it is to be read either way.
    pub fn require(mut self, holds: bool, text: impl Into<String>) -> Self {
        self.within &= holds;
        self.note(text)
    }
}

/// Four significant digits or so.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.3}"),
        size if size >= 0.001 || size == 0.0 => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

/// Collects a check's lines and prints each when it is known.
#[derive(Debug)]
pub struct Report {
    check: &'static str,
    lines: usize,
    failures: Vec<String>,
    since: Instant,
}

impl Report {
    /// Of a check that begins now.
    pub fn new(check: &'static str) -> Self {
        Report { check, lines: 0, failures: Vec::new(), since: Instant::now() }
    }

    /// Prints a line, with the time since the last one.
    pub fn line(&mut self, line: Line) {
        let Line { subject, figures, within } = line;
        let text = format!("{subject}: {}", figures.join(", "));
        let seconds = self.since.elapsed().as_secs_f64();
        println!("  {} {text} ({seconds:.1} s)", if within { "ok    " } else { "FAILED" });
        self.lines += 1;
        self.since = Instant::now();
        if !within {
            self.failures.push(format!("{}: {text}", self.check));
        }
    }

    /// The check could not go on.
    pub fn broke_off(&mut self, problem: &str) {
        self.line(Line::new("broke off").require(false, problem));
    }

    /// What was out of tolerance. A check without a line has shown nothing, which is a failure too.
    pub fn finish(self) -> Vec<String> {
        let mut failures = self.failures;
        if self.lines == 0 {
            failures.push(format!("{}: nothing was compared", self.check));
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_figure_out_of_tolerance_fails_the_line() {
        assert!(Line::new("a").at_most("x", 1.0, 1.0).at_least("y", 2.0, 2.0).within);
        for line in [
            Line::new("a").at_most("x", 1.1, 1.0).at_most("y", 0.0, 1.0),
            Line::new("a").at_least("x", 0.9, 1.0),
            Line::new("a").at_most("x", f64::NAN, 1.0),
            Line::new("a").at_least("x", f64::NAN, 1.0),
            Line::new("a").all("x", (0, 0), None),
            Line::new("a").all("x", (1, 2), Some("b")),
        ] {
            assert!(!line.within, "{line:?}");
        }
    }

    #[test]
    fn a_check_that_shows_nothing_fails() {
        assert_eq!(Report::new("a").finish(), ["a: nothing was compared"]);
        let mut report = Report::new("a");
        report.line(Line::new("b").note("c"));
        assert!(report.finish().is_empty());
    }
}
