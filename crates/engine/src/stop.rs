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

    /// Takes text in and returns what may leave.
    pub fn push(&mut self, text: &str) -> String {
        if self.is_stopped {
            return String::new();
        }
        self.held.push_str(text);
        let earliest = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = earliest {
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

    proptest! {
        /// Any cutting of the text gives what the whole text gives: everything before the first stop.
        #[test]
        fn any_chunking_gives_the_text_before_the_first_stop(
            pieces in prop::collection::vec("[abé]{0,4}", 0..12),
            stops in prop::collection::vec("[abé]{1,4}", 0..3),
        ) {
            let whole: String = pieces.concat();
            let want = stops.iter().filter_map(|s| whole.find(s.as_str())).min();
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
