//! Stop strings over a stream of text: [`StopFilter`].

/// Passes text on until a stop string is complete; holds back what may become one.
#[derive(Debug, Default)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
    is_stopped: bool,
}

impl StopFilter {
    /// A filter for `stops`; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        StopFilter { stops, ..StopFilter::default() }
    }

    /// Whether a stop string was completed; what followed it is gone.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Takes text in and returns what may leave. Of several stop strings the one that is complete
    /// first counts, the longest of those that end together, so that the cutting into pieces does
    /// not matter.
    pub fn push(&mut self, text: &str) -> String {
        if self.is_stopped {
            return String::new();
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, at)) = found.min() {
            self.is_stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// The end of the text: what was held back is no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`, in bytes.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.as_bytes().ends_with(&stop.as_bytes()[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_stop_that_is_complete_first_counts_however_the_text_is_cut() {
        for (stops, expected) in [(["aba", "b"], "xa"), (["b", "ab"], "x")] {
            for pieces in [&["xaba"][..], &["xab", "a"], &["x", "a", "b", "a"]] {
                let mut filter = StopFilter::new(&stops.map(str::to_owned));
                let left: String = pieces.iter().map(|piece| filter.push(piece)).collect();
                assert_eq!((left.as_str(), filter.is_stopped()), (expected, true), "{stops:?} {pieces:?}");
            }
        }
    }

    proptest! {
        /// Any cutting of the text gives what reading it character by character gives: everything
        /// before the stop that is complete first.
        #[test]
        fn any_chunking_gives_the_text_before_the_first_stop(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,4}", 0..3),
        ) {
            let whole: String = pieces.concat();
            let want = (0..=whole.len()).filter(|&end| whole.is_char_boundary(end)).find_map(|end| {
                let complete = stops.iter().filter(|stop| whole[..end].ends_with(stop.as_str()));
                complete.map(|stop| end - stop.len()).min()
            });
            let mut filter = StopFilter::new(&stops);
            let mut got = String::new();
            for piece in &pieces {
                got += &filter.push(piece);
            }
            prop_assert_eq!(filter.is_stopped(), want.is_some());
            got += &filter.finish();
            prop_assert_eq!(got, &whole[..want.unwrap_or(whole.len())]);
        }
    }
}
