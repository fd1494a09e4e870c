//! `tandem report`: what the ledger adds up to, as a table for people or JSON for machines.

use std::fmt::Write;

use ledger::{Percentiles, Report, Totals};

/// Stands where there is nothing to show.
const NOTHING: &str = "-";

/// Between two columns.
const GAP: &str = "  ";

/// The report as one JSON object: the fields of [`Report`], and what large alone would have cost.
pub fn json(report: &Report) -> Result<serde_json::Value, serde_json::Error> {
    let mut value = serde_json::to_value(report)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("always_large_usd".to_owned(), serde_json::to_value(always_large_usd(report))?);
    }
    Ok(value)
}

/// The report for a terminal: a summary, then a line per route and a line per backend.
pub fn table(report: &Report) -> String {
    let mut text = summary(report);
    if !report.routes.is_empty() {
        text.push('\n');
        text += &routes(report).to_string();
    }
    if !report.backends.is_empty() {
        text.push('\n');
        text += &backends(report).to_string();
    }
    text
}

fn always_large_usd(report: &Report) -> f64 {
    report.totals.cost_usd + report.saved_usd
}

fn summary(report: &Report) -> String {
    let always_large = always_large_usd(report);
    let saved = match share(report.saved_usd, always_large) {
        Some(share) => {
            format!("{} ({share} of the {} of always-large)", usd(report.saved_usd), usd(always_large))
        }
        None => usd(report.saved_usd),
    };
    let escalated = report
        .escalation_rate
        .map_or(NOTHING.to_owned(), |rate| format!("{} of the requests that small began", percent(rate)));
    let feedback = report
        .feedback_mean
        .map_or(NOTHING.to_owned(), |mean| format!("mean {mean:.2} over {} scores", report.feedback_rows));
    let lines = [
        ("requests", report.requests.to_string()),
        ("errors", counted(report.errors, report.requests)),
        ("clients gone", counted(report.clients_gone, report.requests)),
        ("escalated", escalated),
        ("tokens", tokens(&report.totals)),
        ("cost", usd(report.totals.cost_usd)),
        ("saved", saved),
        ("total, ms", spelled(report.total)),
        ("first token, ms", spelled(report.first_token)),
        ("overhead, ms", spelled(report.overhead)),
        ("feedback", feedback),
    ];
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:width$}{GAP}{value}");
        text
    })
}

fn routes(report: &Report) -> Table {
    let mut table = Table::new(&[
        "route",
        "<model",
        "requests",
        "errors",
        "gone",
        "prompt",
        "cached",
        "written",
        "cost",
        "saved",
        "total p50/p95/p99 ms",
        "first token p50/p95/p99 ms",
    ]);
    for line in &report.routes {
        table.row(vec![
            line.route.clone(),
            line.model.clone().unwrap_or_else(|| NOTHING.to_owned()),
            line.requests.to_string(),
            line.errors.to_string(),
            line.clients_gone.to_string(),
            line.totals.prompt_tokens.to_string(),
            line.totals.cached_tokens.to_string(),
            line.totals.completion_tokens.to_string(),
            usd(line.totals.cost_usd),
            usd(line.saved_usd),
            joined(line.total),
            joined(line.first_token),
        ]);
    }
    table
}

fn backends(report: &Report) -> Table {
    let mut table = Table::new(&[
        "backend",
        "<model",
        "attempts",
        "failed",
        "cancelled",
        "prompt",
        "cached",
        "written",
        "cost",
    ]);
    for line in &report.backends {
        table.row(vec![
            line.role.clone(),
            line.model.clone(),
            line.totals.attempts.to_string(),
            line.totals.failed.to_string(),
            line.totals.cancelled.to_string(),
            line.totals.prompt_tokens.to_string(),
            line.totals.cached_tokens.to_string(),
            line.totals.completion_tokens.to_string(),
            usd(line.totals.cost_usd),
        ]);
    }
    table
}

/// Columns as wide as their widest cell: words to the left, numbers to the right.
struct Table {
    /// Of each column: is it words?
    words: Vec<bool>,
    /// The heads, then the rows.
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A column is words if it is the first or its head starts with `<`.
    fn new(heads: &[&str]) -> Self {
        let words =
            heads.iter().enumerate().map(|(index, head)| index == 0 || head.starts_with('<')).collect();
        Table {
            words,
            rows: vec![heads.iter().map(|head| head.trim_start_matches('<').to_owned()).collect()],
        }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widest = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.words.len()).map(|column| widest(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).zip(&self.words).map(|((cell, &width), &words)| {
                if words { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            writeln!(formatter, "{}", cells.collect::<Vec<_>>().join(GAP).trim_end())?;
        }
        Ok(())
    }
}

/// US dollars with as many decimals as a fraction of a cent needs.
fn usd(value: f64) -> String {
    let decimals = if value == 0.0 || value.abs() >= 1.0 { 2 } else { 6 };
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}${:.decimals$}", value.abs())
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn share(part: f64, whole: f64) -> Option<String> {
    (whole > 0.0).then(|| percent(part / whole))
}

fn counted(part: u64, whole: u64) -> String {
    match share(part as f64, whole as f64) {
        Some(share) if part > 0 => format!("{part} ({share})"),
        _ => part.to_string(),
    }
}

fn tokens(totals: &Totals) -> String {
    let Totals {
        prompt_tokens, cached_tokens, completion_tokens, accepted_prediction_tokens: drafted, ..
    } = *totals;
    format!(
        "{prompt_tokens} prompt ({cached_tokens} cached), {completion_tokens} written ({drafted} drafted)"
    )
}

/// Milliseconds: tenths only where they matter.
fn ms(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn joined(percentiles: Option<Percentiles>) -> String {
    percentiles.map_or(NOTHING.to_owned(), |of| [of.p50_ms, of.p95_ms, of.p99_ms].map(ms).join("/"))
}

fn spelled(percentiles: Option<Percentiles>) -> String {
    percentiles.map_or(NOTHING.to_owned(), |of| {
        format!("p50 {}, p95 {}, p99 {}", ms(of.p50_ms), ms(of.p95_ms), ms(of.p99_ms))
    })
}

#[cfg(test)]
mod tests {
    use ledger::{BackendLine, ReportQuery, RouteLine};

    use super::*;

    fn totals(attempts: u64, cost_usd: f64) -> Totals {
        Totals {
            attempts,
            failed: 1,
            cancelled: 2,
            prompt_tokens: 1200,
            cached_tokens: 300,
            completion_tokens: 450,
            accepted_prediction_tokens: 200,
            rejected_prediction_tokens: 50,
            cost_usd,
        }
    }

    fn report() -> Report {
        let times = Some(Percentiles { p50_ms: 4.25, p95_ms: 150.4, p99_ms: 1900.0 });
        let line = |route: &str, model: Option<&str>, requests, saved_usd| RouteLine {
            route: route.to_owned(),
            model: model.map(str::to_owned),
            requests,
            errors: 0,
            clients_gone: 1,
            totals: totals(requests, 0.0125),
            saved_usd,
            total: times,
            first_token: None,
        };
        let backend = BackendLine {
            role: "small".to_owned(),
            model: "qwen2.5-coder-0.5b".to_owned(),
            totals: totals(12, 0.0),
        };
        Report {
            query: ReportQuery::default(),
            requests: 12,
            errors: 3,
            clients_gone: 0,
            routes: vec![
                line("escalated", Some("qwen2.5-coder-1.5b"), 2, -0.0005),
                line("refused", None, 10, 2.5),
            ],
            backends: vec![backend],
            totals: totals(12, 0.5),
            saved_usd: 1.5,
            escalation_rate: Some(0.25),
            total: times,
            first_token: times,
            overhead: None,
            feedback_rows: 4,
            feedback_mean: Some(0.75),
        }
    }

    #[test]
    fn the_table_reads_as_intended() {
        let expected = "\
requests         12
errors           3 (25.0%)
clients gone     0
escalated        25.0% of the requests that small began
tokens           1200 prompt (300 cached), 450 written (200 drafted)
cost             $0.500000
saved            $1.50 (75.0% of the $2.00 of always-large)
total, ms        p50 4.2, p95 150, p99 1900
first token, ms  p50 4.2, p95 150, p99 1900
overhead, ms     -
feedback         mean 0.75 over 4 scores

route      model               requests  errors  gone  prompt  cached  written       cost       saved  total p50/p95/p99 ms  first token p50/p95/p99 ms
escalated  qwen2.5-coder-1.5b         2       0     1    1200     300      450  $0.012500  -$0.000500          4.2/150/1900                           -
refused    -                         10       0     1    1200     300      450  $0.012500       $2.50          4.2/150/1900                           -

backend  model               attempts  failed  cancelled  prompt  cached  written   cost
small    qwen2.5-coder-0.5b        12       1          2    1200     300      450  $0.00
";
        assert_eq!(table(&report()), expected);
    }

    #[test]
    fn json_holds_all_fields_and_reads_back() {
        let value = json(&report()).unwrap();
        assert_eq!(value["always_large_usd"], 2.0);
        assert_eq!(value["routes"][1]["model"], serde_json::Value::Null);
        assert_eq!(serde_json::from_value::<Report>(value).unwrap(), report());
    }

    #[tokio::test]
    async fn an_empty_ledger_has_a_report() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = ledger::Ledger::open(&path, ledger::LedgerSettings::default()).await.unwrap();
        let text = table(&ledger.report(ReportQuery::default()).await.unwrap());
        assert!(text.starts_with("requests         0\n") && text.contains("escalated        -\n"), "{text}");
        ledger.close().await.unwrap();
    }
}
