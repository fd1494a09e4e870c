//! Jobs for tests of the scheduler.

use engine::sampling::SamplingParams;
use engine::scheduler::{Job, Priority, Sink};

/// A greedy job of nobody in particular, which may be drafted for.
pub fn job(prompt: &[u32], max_tokens: usize, sink: Box<dyn Sink>) -> Job {
    Job {
        prompt: prompt.to_vec(),
        max_tokens: Some(max_tokens),
        stop: Vec::new(),
        sampling: SamplingParams::default(),
        top_logprobs: 0,
        client: None,
        priority: Priority::Interactive,
        speculative: true,
        reading: None,
        deadline: None,
        sink,
    }
}
