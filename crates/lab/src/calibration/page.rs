//! A calibration as a page to read: HTML with drawings inside, no script, no other file.

use std::fmt::Write as _;

use policy::Calibration;
use policy::calibration::{Performance, Slice};

use super::candidates::Candidate;
use super::pairs::Pairs;
use super::scores::score;
use super::{Split, split};

/// Ids of errors that are shown.
const ERRORS_SHOWN: usize = 20;
/// Parts of the rows below which a slice says nothing.
const SLICE_ROWS_MIN: u64 = 5;
/// The drawings' size and margin, CSS pixels.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 48.0;

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1b1f24;--dim:#667080;--page:#fff;--line:#d8dee6;--a:#0b6bcb;\
--b:#c2410c;--band:#0b6bcb26}@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--dim:#93a0b0;--page:#14171b;\
--line:#333b45;--a:#63aef5;--b:#fb923c;--band:#63aef530}}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);\
background:var(--page);max-width:60rem;margin:2rem auto;padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.1rem;\
margin-top:2rem}p.why{border-left:3px solid var(--a);padding-left:.8rem}table{border-collapse:collapse;\
font-variant-numeric:tabular-nums}th,td{padding:.25rem .8rem .25rem 0;text-align:right;border-bottom:1px solid \
var(--line)}th:first-child,td:first-child{text-align:left}th{color:var(--dim);font-weight:500}figure{margin:1rem 0}\
figcaption,.dim{color:var(--dim)}svg{max-width:100%;height:auto}svg text{fill:var(--dim);font-size:12px}\
code{overflow-wrap:anywhere}";

/// The page of a calibration and the rows behind it.
pub fn page(calibration: &Calibration, pairs: &Pairs) -> String {
    let held = &calibration.held_out;
    let verdict = if calibration.routes { calibration.policy.as_str() } else { "does not route" };
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Calibration of {small} and {large}</title><style>{STYLE}</style><h1>{small} &amp; {large}: \
         {verdict}</h1><p class=why>{why}</p>",
        small = escaped(&calibration.small),
        large = escaped(&calibration.large),
        why = escaped(&calibration.why),
    );
    page += &summary(calibration, held);
    page += "<h2>Cost and quality</h2>";
    page += &curve(calibration);
    page += &thresholds(calibration);
    page += "<h2>Does the confidence hold?</h2>";
    page += &reliability(calibration);
    page += "<h2>Where it does well and where not</h2>";
    page += &slices(&calibration.slices);
    page += &errors(calibration, pairs);
    let data = &calibration.data;
    let _ = write!(
        page,
        "<h2>Data</h2><p class=dim>{} rows fitted on, {} that tested thresholds, {} held out, split by id with seed \
         {}; {} left out, for only one model had an outcome of them. Outcomes: <code>{}</code></p>",
        data.fit,
        data.calibration,
        data.held_out,
        data.seed,
        data.unpaired,
        escaped(&data.outcomes_sha256)
    );
    page
}

fn summary(calibration: &Calibration, held: &Performance) -> String {
    let order = &calibration.ordering;
    let or_dash = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
    format!(
        "<table><tr><th>On {} held-out rows<th>quality<th>calls of large<th>USD per 1,000</tr>\
         <tr><td>small alone<td>{:.3}<td>0%<td></tr>\
         <tr><td>the policy<td>{:.3} ({:.3} to {:.3})<td>{:.1}%<td>{:.4}</tr>\
         <tr><td>large alone<td>{:.3}<td>100%<td>{:.4}</tr></table>\
         <p>Lost against large: {:.4} ({:.4} to {:.4}; allowed {} with confidence {}). Above random mixing: {:+.4} \
         ({:+.4} to {:+.4}).<br>APGR {}, CPT(50%) {}, CPT(80%) {}, CPT(95%) {}, AUROC {} ({:.3} to {:.3}), on {} rows that no fit \
         had seen.</p>",
        held.rows,
        held.quality_small,
        held.quality_policy,
        held.quality_policy_ci[0],
        held.quality_policy_ci[1],
        100.0 * held.large_share,
        held.cost_usd_per_1k,
        held.quality_large,
        held.cost_large_usd_per_1k,
        held.realised_loss,
        held.realised_loss_ci[0],
        held.realised_loss_ci[1],
        calibration.max_quality_loss,
        calibration.confidence,
        held.above_mixing,
        held.above_mixing_ci[0],
        held.above_mixing_ci[1],
        or_dash(order.apgr),
        or_dash(order.cpt50),
        or_dash(order.cpt80),
        or_dash(order.cpt95),
        or_dash(order.auroc),
        order.auroc_ci[0],
        order.auroc_ci[1],
        order.rows,
    )
}

/// Maps figures into a drawing.
struct Axes {
    x: [f64; 2],
    y: [f64; 2],
}

impl Axes {
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let share = |[low, high]: [f64; 2], value: f64| (value - low) / (high - low).max(1e-12);
        let (x, y) = (share(self.x, x), share(self.y, y));
        (MARGIN + x * (WIDTH - 1.5 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 1.5 * MARGIN))
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (index, (x, y)) in points.enumerate() {
            let (x, y) = self.place(x, y);
            let _ = write!(path, "{}{x:.1} {y:.1} ", if index == 0 { 'M' } else { 'L' });
        }
        path
    }

    /// The frame with five marks on each axis.
    fn frame(&self, labels: [&str; 2]) -> String {
        let mut frame = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width={WIDTH} role=img aria-label=\"{} over {}\">",
            labels[1], labels[0]
        );
        for step in 0..=4 {
            let share = f64::from(step) / 4.0;
            let (x, y) =
                (self.x[0] + share * (self.x[1] - self.x[0]), self.y[0] + share * (self.y[1] - self.y[0]));
            let ((left, line), (right, _)) = (self.place(self.x[0], y), self.place(self.x[1], y));
            let (mark, bottom) = self.place(x, self.y[0]);
            let _ = write!(
                frame,
                "<line x1={left:.1} y1={line:.1} x2={right:.1} y2={line:.1} stroke=\"var(--line)\"/>\
                 <text x={:.1} y={:.1} text-anchor=end>{y:.2}</text>\
                 <text x={mark:.1} y={:.1} text-anchor=middle>{x:.2}</text>",
                left - 6.0,
                line + 4.0,
                bottom + 16.0,
            );
        }
        let _ = write!(
            frame,
            "<text x={:.1} y={:.1} text-anchor=middle>{}</text><text x=4 y=14>{}</text>",
            WIDTH / 2.0,
            HEIGHT - 8.0,
            labels[0],
            labels[1]
        );
        frame
    }
}

fn curve(calibration: &Calibration) -> String {
    let points = &calibration.curve;
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let low = points.iter().map(|point| point.quality_ci[0]).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.quality_ci[1]).fold(f64::NEG_INFINITY, f64::max);
    let axes = Axes { x: [0.0, 1.0], y: [(low - 0.02).max(0.0), (high + 0.02).min(1.0)] };
    let band = points.iter().map(|point| (point.large_share, point.quality_ci[1]));
    let band = band.chain(points.iter().rev().map(|point| (point.large_share, point.quality_ci[0])));
    let held = &calibration.held_out;
    let (x, y) = axes.place(held.large_share, held.quality_policy);
    format!(
        "<figure>{}<path d=\"{}Z\" fill=\"var(--band)\"/><path d=\"{}\" stroke=\"var(--dim)\" stroke-dasharray=\"5 4\" \
         fill=none /><path d=\"{}\" stroke=\"var(--a)\" stroke-width=2 fill=none /><circle cx={x:.1} cy={y:.1} r=5 \
         fill=\"var(--b)\"/></svg><figcaption>Quality over the share of large calls, with its 95% band; dashed: random \
         mixing; the dot: this policy on held-out rows. From {:.4} to {:.4} USD per 1,000 requests.</figcaption>\
         </figure>",
        axes.frame(["share of large calls", "quality"]),
        axes.path(band),
        axes.path([(0.0, first.quality), (1.0, last.quality)].into_iter()),
        axes.path(points.iter().map(|point| (point.large_share, point.quality))),
        first.cost_usd_per_1k,
        last.cost_usd_per_1k,
    )
}

fn thresholds(calibration: &Calibration) -> String {
    let mut table =
        "<table><tr><th>loss allowed<th>least score<th>calls of large<th>USD per 1,000</tr>".to_owned();
    for row in &calibration.thresholds {
        let least = row.score_min.map_or_else(|| "large alone".to_owned(), |least| format!("{least:.3}"));
        let _ = write!(
            table,
            "<tr><td>{}<td>{least}<td>{:.1}%<td>{:.4}</tr>",
            row.max_quality_loss,
            100.0 * row.large_share,
            row.cost_usd_per_1k
        );
    }
    table + "</table>"
}

fn reliability(calibration: &Calibration) -> String {
    let bins = &calibration.ordering.reliability;
    let axes = Axes { x: [0.0, 1.0], y: [0.0, 1.0] };
    let most = bins.iter().map(|bin| bin.rows).max().unwrap_or(1).max(1) as f64;
    let mut dots = String::new();
    for bin in bins {
        let (x, y) = axes.place(bin.predicted, bin.observed);
        let radius = 3.0 + 7.0 * (bin.rows as f64 / most).sqrt();
        let _ = write!(
            dots,
            "<circle cx={x:.1} cy={y:.1} r={radius:.1} fill=\"var(--a)\" fill-opacity=.7><title>{} rows</title></circle>",
            bin.rows
        );
    }
    format!(
        "<figure>{}<path d=\"{}\" stroke=\"var(--dim)\" stroke-dasharray=\"5 4\" fill=none />{dots}</svg><figcaption>How \
         often small was right, over the probability that was given to it; a dot's size is its rows. Expected \
         calibration error {:.3}.</figcaption></figure>",
        axes.frame(["probability that small is right", "share that was right"]),
        axes.path([(0.0, 0.0), (1.0, 1.0)].into_iter()),
        calibration.ordering.ece,
    )
}

fn slices(slices: &[Slice]) -> String {
    let mut sorted: Vec<&Slice> = slices.iter().filter(|slice| slice.rows >= SLICE_ROWS_MIN).collect();
    sorted.sort_by(|a, b| {
        (b.quality_large - b.quality_policy).total_cmp(&(a.quality_large - a.quality_policy))
    });
    let mut table =
        "<table><tr><th>part<th>rows<th>small<th>policy<th>large<th>lost<th>calls of large</tr>".to_owned();
    for slice in sorted {
        let _ = write!(
            table,
            "<tr><td>{}: {}<td>{}<td>{:.3}<td>{:.3}<td>{:.3}<td>{:+.3}<td>{:.0}%</tr>",
            escaped(&slice.by),
            escaped(&slice.value),
            slice.rows,
            slice.quality_small,
            slice.quality_policy,
            slice.quality_large,
            slice.quality_large - slice.quality_policy,
            100.0 * slice.large_share
        );
    }
    table + "</table>"
}

/// Held-out rows where small answered wrongly although large would have been right, surest first.
fn errors(calibration: &Calibration, pairs: &Pairs) -> String {
    let least = calibration.threshold(calibration.max_quality_loss).and_then(|threshold| threshold.score_min);
    let Some(least) = least.filter(|_| calibration.routes) else { return String::new() };
    let candidate = Candidate { kind: calibration.policy, route_below: calibration.route_below };
    let held = pairs.pairs.iter().filter(|pair| split(&pair.id, calibration.data.seed) == Split::HeldOut);
    let lost = held.filter(|pair| !pair.small_correct && pair.large_correct);
    let scored = lost.map(|pair| (candidate.score(&score(&calibration.right, pair)), pair.id.as_str()));
    let mut wrong: Vec<(f64, &str)> = scored.filter(|(score, _)| *score >= least).collect();
    wrong.sort_by(|a, b| b.0.total_cmp(&a.0));
    let shown: Vec<String> = wrong
        .iter()
        .take(ERRORS_SHOWN)
        .map(|(score, id)| format!("<code>{}</code> ({score:.2})", escaped(id)))
        .collect();
    format!(
        "<p>Held-out rows that small answered wrongly and large would have answered rightly: {}. The surest: {}</p>",
        wrong.len(),
        if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
    )
}

/// Text that can't end an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::calibrate;
    use super::super::testing::{pairs, settings};
    use super::*;

    #[test]
    fn the_page_is_whole_and_takes_nothing_from_elsewhere() {
        let mut pairs = pairs(2000, 3.0);
        pairs.small = "<script>alert(1)</script>".to_owned();
        let calibration = calibrate(&pairs, &settings()).unwrap();
        let page = page(&calibration, &pairs);
        for part in ["<svg", "var(--band)", "task: t1", "The surest", "Expected"] {
            assert!(page.contains(part), "{part}");
        }
        for absent in ["<script", "http://", "https://", "NaN", "inf"] {
            assert!(!page.contains(absent), "{absent}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }
}
