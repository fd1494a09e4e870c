//! How a memory budget is split: [`split`] chooses what the user left open so that everything fits, or
//! says what would have to change.
//!
//! Fixed parts (process, HTTP, ledger, weights) are given. What depends on choices (a model's key-value
//! cache and working memory) is asked of [`Role::sizes`], which whoever runs the model computes. The
//! search: of [`LEVELS`], from generous to modest, the first that fits while every cache holds one full
//! context; then a shorter context if that was left open; then caches as large as the budget leaves, up to
//! [`CONTEXTS_DEFAULT`] full contexts or [`CACHE_TOKENS_DEFAULT`] positions.

use std::fmt;

/// What is tried in turn: sequences at once, and tokens of a pass.
pub const LEVELS: [(u32, u32); 8] =
    [(32, 256), (32, 128), (16, 128), (8, 128), (8, 64), (4, 64), (2, 64), (1, 64)];
/// Levels from here on are tried with shorter contexts as well.
const SHORTER_FROM: usize = 3;
/// Full contexts that a cache holds if memory is no concern.
pub const CONTEXTS_DEFAULT: u32 = 4;
/// Positions that a cache holds at least if memory is no concern: where contexts are short, four of them would keep most
/// sequences waiting.
pub const CACHE_TOKENS_DEFAULT: u32 = 16_384;
/// Longest sequence unless set, tokens.
pub const CONTEXT_TOKENS_DEFAULT: u32 = 8192;
/// Shortest context that is chosen or proposed, tokens.
pub const CONTEXT_TOKENS_MIN: u32 = 1024;
/// Of a cache's positions, the share that is left where something else was let in that need not be.
pub const CACHE_SHARE_MIN: f64 = 0.75;
/// Chosen and proposed contexts and caches are multiples of this many tokens.
pub const STEP_TOKENS: u32 = 256;
/// Proposed budgets are multiples of this many bytes.
pub const STEP_BYTES: u64 = 1 << 20;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KvKind {
    /// 16-bit floats.
    F16,
    /// 8-bit integers.
    Q8,
    /// 8-bit keys and 4-bit values.
    K8V4,
    /// 4-bit integers.
    Q4,
}

impl KvKind {
    /// From the largest to the smallest.
    pub const ALL: [KvKind; 4] = [KvKind::F16, KvKind::Q8, KvKind::K8V4, KvKind::Q4];

    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            KvKind::F16 => "f16",
            KvKind::Q8 => "q8",
            KvKind::K8V4 => "k8v4",
            KvKind::Q4 => "q4",
        }
    }
}

/// How a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Longest sequence.
    pub context_tokens: u32,
    /// Sequences at once.
    pub sequences: u32,
    /// Positions of the cache, shared by all sequences.
    pub kv_tokens: u32,
    /// Most tokens of a pass.
    pub batch_tokens: u32,
    /// How keys and values are stored.
    pub kv: KvKind,
}

/// What the user set of a [`Choice`]; the rest is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Longest sequence.
    pub context_tokens: Option<u32>,
    /// Sequences at once.
    pub sequences: Option<u32>,
    /// Positions of the cache.
    pub kv_tokens: Option<u32>,
    /// Most tokens of a pass.
    pub batch_tokens: Option<u32>,
    /// How keys and values are stored.
    pub kv: KvKind,
}

/// What a choice takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The cache.
    pub kv_bytes: u64,
    /// Activations, logits, and the like.
    pub working_bytes: u64,
}

/// A local model in a role.
pub struct Role<'a> {
    /// `small` or `large`.
    pub name: &'a str,
    /// Bytes of the loaded weights, with tokenizer.
    pub weights_bytes: u64,
    /// Bytes of weights that it has besides, to draft with for another model.
    pub draft_weights_bytes: u64,
    /// Longest sequence that the model was made for.
    pub context_tokens_max: u32,
    /// What is set.
    pub wanted: Wanted,
    /// What a choice takes; grows with each of its numbers.
    pub sizes: &'a dyn Fn(&Choice) -> Taken,
}

/// A part of the memory and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `weights_small`, `kv_large`, `http`, …
    pub name: String,
    /// Bytes, at most.
    pub bytes: u64,
}

/// Who gets how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// All parts.
    pub parts: Vec<Part>,
    /// How each role's model runs, in the order of the roles.
    pub choices: Vec<Choice>,
}

impl Split {
    /// Bytes of all parts.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }

    /// Whether models run nearly as by another split of the same: with as many sequences, as long contexts and
    /// passes, and caches of at least [`CACHE_SHARE_MIN`] of its positions.
    pub fn is_nearly(&self, other: &Split) -> bool {
        self.choices.iter().zip(&other.choices).all(|(own, other)| {
            let cache = f64::from(own.kv_tokens) >= CACHE_SHARE_MIN * f64::from(other.kv_tokens);
            cache && *own == Choice { kv_tokens: own.kv_tokens, ..*other }
        })
    }

    fn of(fixed: &[Part], roles: &[Role], choices: Vec<Choice>) -> Split {
        let mut parts = Vec::new();
        for (role, choice) in roles.iter().zip(&choices) {
            let Taken { kv_bytes, working_bytes } = (role.sizes)(choice);
            let part = |what: &str, bytes| Part { name: format!("{what}_{}", role.name), bytes };
            parts.push(part("weights", role.weights_bytes));
            parts.push(part("kv", kv_bytes));
            parts.push(part("working", working_bytes));
            if role.draft_weights_bytes > 0 {
                parts.push(Part { name: "weights_draft".to_owned(), bytes: role.draft_weights_bytes });
            }
        }
        parts.extend_from_slice(fixed);
        Split { parts, choices }
    }
}

/// Why nothing fits, and what would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The budget.
    pub budget_bytes: u64,
    /// The least that the settings take.
    pub least: Split,
    /// The longest context set, and the longest that would fit instead.
    pub context: Option<(u32, u32)>,
    /// The first kind of cache that would fit with all else as it is.
    pub kv: Option<KvKind>,
    /// The smallest budget that would do.
    pub memory_bytes: u64,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unfit { budget_bytes, least, context, kv, memory_bytes } = self;
        let parts = least.parts.iter().filter(|part| part.bytes > 0);
        let parts: Vec<String> = parts.map(|part| format!("{} {}", part.name, mib(part.bytes))).collect();
        let mut advice = Vec::new();
        if let Some((from, to)) = context {
            advice.push(format!("context {from} → {to} (--context {to})"));
        }
        if let Some(kv) = kv {
            advice.push(format!("KV {0} (kv_type = \"{0}\")", kv.as_str()));
        }
        let memory = memory_bytes.div_ceil(STEP_BYTES);
        advice.push(format!("--memory {memory}MiB"));
        write!(
            f,
            "the memory budget is {}, but at least {} are needed ({}); the smallest change that would fit: {}",
            mib(*budget_bytes),
            mib(least.total_bytes()),
            parts.join(", "),
            advice.join(", or ")
        )
    }
}

impl std::error::Error for Unfit {}

/// In MiB, rounded up.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// What is chosen where memory is no concern.
pub fn unlimited(fixed: &[Part], roles: &[Role]) -> Split {
    let choices = roles.iter().map(|role| role.with_cache(role.at(LEVELS[0], None), u32::MAX)).collect();
    Split::of(fixed, roles, choices)
}

/// The parts that no model takes, of a budget; each further byte of it adds less than one to them.
pub type FixedOf<'a> = dyn Fn(u64) -> Vec<Part> + 'a;

/// Splits `budget_bytes`.
///
/// # Errors
/// [`Unfit`] if what is set takes more whatever is chosen for the rest.
pub fn split(budget_bytes: u64, fixed_of: &FixedOf, roles: &[Role]) -> Result<Split, Unfit> {
    let fixed = &fixed_of(budget_bytes)[..];
    let fits = |choices: &[Choice]| total(fixed, roles, choices) <= budget_bytes;
    let at = |level, context| -> Vec<Choice> { roles.iter().map(|role| role.at(level, context)).collect() };
    let same = LEVELS.into_iter().map(|level| at(level, None)).find(|choices| fits(choices));
    let shorter = || {
        let open = roles.iter().filter(|role| role.wanted.context_tokens.is_none());
        let longest = open.map(|role| role.context(None)).max()?;
        LEVELS[SHORTER_FROM..].iter().find_map(|&level| {
            let context = longest_that(longest, |context| fits(&at(level, Some(context))))?;
            Some(at(level, Some(context)))
        })
    };
    let Some(choices) = same.or_else(shorter) else {
        return Err(unfit(budget_bytes, fixed_of, roles));
    };
    // What is left goes to the caches, as many contexts to each.
    let longest = choices.iter().map(|choice| choice.context_tokens).max().unwrap_or_default();
    let cached = |tokens: u32| -> Vec<Choice> {
        roles.iter().zip(&choices).map(|(role, &choice)| role.with_cache(choice, tokens)).collect()
    };
    let most = longest.saturating_mul(CONTEXTS_DEFAULT).max(CACHE_TOKENS_DEFAULT);
    let tokens = longest_that(most, |tokens| fits(&cached(tokens)));
    Ok(Split::of(fixed, roles, tokens.map_or(choices.clone(), cached)))
}

fn total(fixed: &[Part], roles: &[Role], choices: &[Choice]) -> u64 {
    Split::of(fixed, roles, choices.to_vec()).total_bytes()
}

/// The largest multiple of a step from [`CONTEXT_TOKENS_MIN`] to `most`, or `most`, that fits; what fits
/// is what is small enough.
fn longest_that(most: u32, fits: impl Fn(u32) -> bool) -> Option<u32> {
    if fits(most) {
        return Some(most);
    }
    let (mut low, mut high) = (CONTEXT_TOKENS_MIN / STEP_TOKENS, most.div_ceil(STEP_TOKENS));
    if low >= high || !fits(low * STEP_TOKENS) {
        return None;
    }
    while low + 1 < high {
        let middle = low.midpoint(high);
        if fits(middle * STEP_TOKENS) { low = middle } else { high = middle }
    }
    Some(low * STEP_TOKENS)
}

/// What would have to change.
fn unfit(budget_bytes: u64, fixed_of: &FixedOf, roles: &[Role]) -> Unfit {
    let fixed = &fixed_of(budget_bytes)[..];
    let last = LEVELS[LEVELS.len() - 1];
    let least = |context: Option<u32>, kv: Option<KvKind>| -> Vec<Choice> {
        let choice = |role: &Role| {
            let open = role.wanted.context_tokens.is_none().then_some(CONTEXT_TOKENS_MIN);
            let choice = role.at(last, open);
            let context = context.map_or(choice.context_tokens, |most| choice.context_tokens.min(most));
            let choice = Choice { context_tokens: context, ..choice };
            let choice = Choice { kv_tokens: role.wanted.kv_tokens.unwrap_or(context), ..choice };
            Choice { kv: kv.map_or(choice.kv, |kv| choice.kv.max(kv)), ..choice }
        };
        roles.iter().map(choice).collect()
    };
    let fits = |choices: &[Choice]| total(fixed, roles, choices) <= budget_bytes;
    let as_set = least(None, None);
    let from = as_set.iter().map(|choice| choice.context_tokens).max().unwrap_or_default();
    // Where the cache's size is set, a shorter context hardly makes it smaller.
    let follows = roles.iter().all(|role| role.wanted.kv_tokens.is_none());
    let to = longest_that(from, |context| fits(&least(Some(context), None)));
    let to = to.filter(|to| follows && *to < from);
    let kv = KvKind::ALL.into_iter().find(|&kv| fits(&least(None, Some(kv))));
    let models = total(&[], roles, &as_set);
    let enough = |steps: u64| {
        let memory = steps.saturating_mul(STEP_BYTES);
        fixed_of(memory).iter().fold(models, |sum, part| sum.saturating_add(part.bytes)) <= memory
    };
    let (mut low, mut high) = (budget_bytes / STEP_BYTES, u64::MAX / STEP_BYTES);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if enough(middle) { high = middle } else { low = middle }
    }
    let memory_bytes = high.saturating_mul(STEP_BYTES);
    let least = Split::of(fixed, roles, as_set);
    Unfit { budget_bytes, least, context: to.map(|to| (from, to)), kv, memory_bytes }
}

impl Role<'_> {
    /// The context: what is set, else the default or `shorter`.
    fn context(&self, shorter: Option<u32>) -> u32 {
        let default = CONTEXT_TOKENS_DEFAULT.min(shorter.unwrap_or(CONTEXT_TOKENS_DEFAULT));
        self.wanted.context_tokens.unwrap_or(default).min(self.context_tokens_max)
    }

    /// What is set, and for the rest this level, with a cache of one context.
    fn at(&self, (sequences, batch_tokens): (u32, u32), context: Option<u32>) -> Choice {
        let Wanted { kv_tokens, kv, .. } = self.wanted;
        let context_tokens = self.context(context);
        Choice {
            context_tokens,
            sequences: self.wanted.sequences.unwrap_or(sequences),
            kv_tokens: kv_tokens.unwrap_or(context_tokens),
            batch_tokens: self.wanted.batch_tokens.unwrap_or(batch_tokens),
            kv,
        }
    }

    /// With a cache of `tokens`, between one context and [`CONTEXTS_DEFAULT`] of them or [`CACHE_TOKENS_DEFAULT`], if it is
    /// open; no more than all sequences can fill.
    fn with_cache(&self, choice: Choice, tokens: u32) -> Choice {
        let one = choice.context_tokens;
        let most = one.saturating_mul(CONTEXTS_DEFAULT).max(CACHE_TOKENS_DEFAULT);
        let open = tokens.min(most).min(one.saturating_mul(choice.sequences)).max(one);
        Choice { kv_tokens: self.wanted.kv_tokens.unwrap_or(open), ..choice }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A model of `layers` full layers of 2 · 64 elements a token, and a kilobyte of work a token.
    fn taken(layers: u64, choice: &Choice) -> Taken {
        let element_quarters = match choice.kv {
            KvKind::F16 => 8,
            KvKind::Q8 => 4,
            KvKind::K8V4 => 3,
            KvKind::Q4 => 2,
        };
        let tokens = u64::from(choice.kv_tokens) + 64 * u64::from(choice.sequences);
        Taken {
            kv_bytes: tokens * layers * 2 * 64 * element_quarters / 4,
            working_bytes: u64::from(choice.batch_tokens) * 1024 * layers
                + u64::from(choice.sequences) * 100_000,
        }
    }

    const OPEN: Wanted = Wanted {
        context_tokens: None,
        sequences: None,
        kv_tokens: None,
        batch_tokens: None,
        kv: KvKind::F16,
    };

    /// Something fixed, and a share.
    fn fixed(budget: u64) -> Vec<Part> {
        vec![Part { name: "process".to_owned(), bytes: 20 * MIB + budget.min(2048 * MIB) / 32 }]
    }

    /// Splits for a model of `layers` layers and `weights_mib`.
    fn split_for(budget: u64, (layers, weights_mib): (u64, u64), wanted: Wanted) -> Result<Split, Unfit> {
        let sizes = |choice: &Choice| taken(layers, choice);
        let weights_bytes = weights_mib * MIB;
        let role = Role {
            name: "small",
            weights_bytes,
            draft_weights_bytes: 0,
            context_tokens_max: 32_768,
            wanted,
            sizes: &sizes,
        };
        split(budget, &fixed, &[role])
    }

    #[test]
    fn plenty_gives_the_defaults() {
        let split = split_for(64 << 30, (24, 400), OPEN).unwrap();
        let choice = split.choices[0];
        assert_eq!((choice.sequences, choice.batch_tokens), LEVELS[0]);
        assert_eq!((choice.context_tokens, choice.kv_tokens), (8192, 4 * 8192));
        let sizes = |choice: &Choice| taken(24, choice);
        let role = Role {
            name: "small",
            weights_bytes: 400 * MIB,
            draft_weights_bytes: 0,
            context_tokens_max: 32_768,
            wanted: OPEN,
            sizes: &sizes,
        };
        assert_eq!(unlimited(&fixed(64 << 30), &[role]), split);
        let names: Vec<&str> = split.parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["weights_small", "kv_small", "working_small", "process"]);
    }

    #[test]
    fn short_contexts_leave_room_for_all_sequences() {
        let kv_tokens = |context, sequences| {
            let wanted = Wanted { context_tokens: Some(context), sequences, ..OPEN };
            split_for(64 << 30, (24, 400), wanted).unwrap().choices[0].kv_tokens
        };
        assert_eq!(kv_tokens(500, None), 500 * LEVELS[0].0);
        assert_eq!((kv_tokens(500, Some(3)), kv_tokens(500, Some(1))), (1500, 500));
        assert_eq!((kv_tokens(1000, None), kv_tokens(4096, None)), (CACHE_TOKENS_DEFAULT, 4 * 4096));
    }

    #[test]
    fn weights_to_draft_with_are_a_part_and_leave_the_rest_nearly_as_it_was() {
        let of = |budget_mib: u64, draft_weights_mib: u64| {
            let sizes = |choice: &Choice| taken(24, choice);
            let role = Role {
                name: "small",
                weights_bytes: 400 * MIB,
                draft_weights_bytes: draft_weights_mib * MIB,
                context_tokens_max: 32_768,
                wanted: OPEN,
                sizes: &sizes,
            };
            split(budget_mib * MIB, &fixed, &[role]).unwrap()
        };
        let bytes = |split: &Split, name: &str| split.parts.iter().find(|p| p.name == name).map(|p| p.bytes);
        assert_eq!(bytes(&of(2000, 0), "weights_draft"), None);
        assert_eq!(bytes(&of(2000, 200), "weights_draft"), Some(200 * MIB));
        assert!(of(2000, 200).is_nearly(&of(2000, 0)));
        // Where all caches are open, they are what is left: first they shrink, then there are fewer sequences.
        let nearly: Vec<bool> =
            (0..30).map(|more| of(500 + 10 * more, 50).is_nearly(&of(500 + 10 * more, 0))).collect();
        assert!(!nearly[0] && nearly[29], "{nearly:?}");
        for more in 0..30 {
            let (with, without) = (of(500 + 10 * more, 50), of(500 + 10 * more, 0));
            let (own, other) = (with.choices[0], without.choices[0]);
            let cache = own.kv_tokens * 4 >= other.kv_tokens * 3;
            let same = (own.sequences, own.batch_tokens) == (other.sequences, other.batch_tokens);
            let is_nearly = cache && same && own.context_tokens == other.context_tokens;
            assert_eq!(with.is_nearly(&without), is_nearly, "{own:?} {other:?}");
        }
    }

    #[test]
    fn what_cannot_fit_is_refused_in_words() {
        let wanted = Wanted { context_tokens: Some(8192), ..OPEN };
        // 8192 tokens of 24 layers are 48 MiB at f16, and 64 more positions and some work.
        let error = split_for(475 * MIB, (24, 400), wanted).unwrap_err();
        let (from, to) = error.context.unwrap();
        assert_eq!((from, error.kv), (8192, Some(KvKind::Q8)));
        let text = error.to_string();
        assert!(text.contains(&format!("context 8192 → {to} (--context {to})")), "{text}");
        assert!(text.contains("or KV q8") && text.contains("weights_small 400 MiB"), "{text}");
        let error = split_for(300 * MIB, (24, 400), wanted).unwrap_err();
        assert_eq!((error.context, error.kv), (None, None));
        assert!(error.to_string().contains("would fit: --memory 4"), "{error}");
    }

    #[test]
    fn an_open_context_gets_shorter_rather_than_refused() {
        let split = split_for(465 * MIB, (24, 400), OPEN).unwrap();
        let choice = split.choices[0];
        assert!((CONTEXT_TOKENS_MIN..8192).contains(&choice.context_tokens), "{choice:?}");
        assert!(split.total_bytes() <= 465 * MIB && choice.sequences > 1, "{choice:?}");
    }

    proptest! {
        #[test]
        fn a_split_never_exceeds_the_budget_and_a_proposal_is_the_smallest_change(
            budget_mib in 20u64..1500, layers in 1u64..48, weights_mib in 1u64..600,
            context in prop::option::of(1u32..40_000), sequences in prop::option::of(1u32..64),
            batch in prop::option::of(64u32..=512), kv_tokens in prop::option::of(256u32..100_000),
        ) {
            let wanted =
                Wanted { context_tokens: context, sequences, kv_tokens, batch_tokens: batch, ..OPEN };
            let (budget, model) = (budget_mib * MIB, (layers, weights_mib));
            match split_for(budget, model, wanted) {
                Ok(split) => {
                    prop_assert!(split.total_bytes() <= budget);
                    let choice = split.choices[0];
                    prop_assert_eq!(choice.context_tokens, choice.context_tokens.min(context.unwrap_or(8192)));
                    prop_assert!(sequences.is_none_or(|set| set == choice.sequences));
                    prop_assert!(kv_tokens.is_none_or(|set| set == choice.kv_tokens));
                    prop_assert!(kv_tokens.is_some() || choice.kv_tokens >= choice.context_tokens);
                }
                Err(error) => {
                    prop_assert!(error.least.total_bytes() > budget);
                    let memory = error.memory_bytes;
                    prop_assert!(split_for(memory, model, wanted).is_ok());
                    prop_assert!(split_for(memory - STEP_BYTES, model, wanted).is_err());
                    if let Some((_, to)) = error.context {
                        let with = |context| Wanted { context_tokens: Some(context), kv_tokens: None, ..wanted };
                        prop_assert!(split_for(budget, model, with(to)).is_ok());
                        prop_assert!(split_for(budget, model, with(to + STEP_TOKENS)).is_err());
                    }
                    if let Some(kv) = error.kv {
                        let smaller = Wanted { kv, ..wanted };
                        prop_assert!(split_for(budget, model, smaller).is_ok());
                    }
                }
            }
        }
    }
}
