//! Asks models what guards want to know: [`Asking`]. What the answers mean, and what follows, is the guards' business.
//!
//! A text is read once however many guards want its reading, and a request that is nothing but the text is read as
//! itself: its [`Read`] goes on to whoever needs it next. What was judged before is not asked about again.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use contract::{
    Backend, BackendError, Call, Channel, Event, FailureKind, GuardAction, GuardRecord, Input, Priority,
    Read, ReadOptions, Readiness, Reading, Request, Role, Route, Usage,
};
use futures_util::StreamExt;
use policy::guards::asked::{Answer, Ask, AskedLink, Judged, Score, Texts, Window, reading_request, texts};
use policy::guards::redact::Vault;
use policy::guards::{Checked, Hit};
use tokio::time::{Duration, timeout};

use super::admission::Caller;
use super::locating::looks_at_requests;
use super::run::{Phase, Run};
use super::{FlowError, Shared, scores};

/// Most bytes that a judge may write before it has said what it thinks.
const SAID_BYTES_MAX: usize = 4096;

/// What came of asking about a request.
pub(super) struct Asked {
    /// What is told, in order.
    pub(super) records: Vec<GuardRecord>,
    /// Why the request is refused, if it is; guards after that one were not asked.
    pub(super) refusal: Option<FlowError>,
    /// Whether the large model is to answer.
    pub(super) escalates: bool,
    /// The request, read already.
    pub(super) read: Option<Read>,
    /// What it took, but for `read`.
    pub(super) spent: Vec<(Role, Usage)>,
    /// The request as guards left it that redacted it, and the values that its placeholders stand for.
    pub(super) redacted: Option<(Arc<Request>, Vault)>,
}

/// An [`Asked`] to come.
pub(super) type AskFuture = Pin<Box<dyn Future<Output = Asked> + Send>>;

/// Asks about the texts of one request, or one piece of an answer.
pub(super) struct Asking {
    pub(super) shared: Arc<Shared>,
    /// The request that the texts are of, or one like it.
    pub(super) request: Arc<Request>,
    tenant: Option<Arc<str>>,
    /// What the user asked, of an answer's windows.
    prompt: String,
    /// Whether guards that say where something stands are asked now.
    locates: bool,
    /// Of each text, once somebody wanted it.
    readings: HashMap<String, Result<Reading, String>>,
    pub(super) asked: Asked,
}

impl Asking {
    pub(super) fn new(shared: &Arc<Shared>, (request, tenant): (Arc<Request>, Option<Arc<str>>)) -> Self {
        let asked = Asked {
            records: Vec::new(),
            refusal: None,
            escalates: false,
            read: None,
            spent: Vec::new(),
            redacted: None,
        };
        let (shared, readings) = (Arc::clone(shared), HashMap::new());
        Asking { shared, request, tenant, prompt: String::new(), locates: true, readings, asked }
    }

    /// Asks all guards about a request in order, until one refuses: first those that say where something stands, then
    /// the others about what is left.
    pub(super) async fn of_request(mut self, vault: Vault) -> Asked {
        self.locate(vault).await;
        self.locates = false;
        let texts = match self.asked.refusal {
            None => Texts::of_request(&self.request),
            Some(_) => Texts::default(),
        };
        self.run(texts).await
    }

    /// The prompt that what is judged answers.
    pub(super) fn answering(mut self, prompt: String) -> Self {
        self.prompt = prompt;
        self
    }

    /// Asks all guards in order, until one refuses.
    pub(super) async fn run(mut self, texts: Texts) -> Asked {
        let shared = Arc::clone(&self.shared);
        let locates = self.locates;
        for link in shared.guards.asked().iter().filter(|link| locates || !link.locates()) {
            for hit in self.hits(link, &texts).await {
                let Some(verdict) = hit.verdict else { continue };
                if verdict.action == Some(GuardAction::Block)
                    && let Some(record) = &verdict.record
                {
                    self.asked.refusal = Some(self.refusal(link, record));
                }
                self.asked.escalates |= verdict.action == Some(GuardAction::Escalate);
                self.asked.records.extend(verdict.record);
            }
            if self.asked.refusal.is_some() {
                self.asked.read = None;
                break;
            }
        }
        self.asked
    }

    /// Asks all guards, whatever they say.
    pub(super) async fn check(mut self, texts: Texts) -> (Vec<Hit>, Vec<(Role, Usage)>) {
        let shared = Arc::clone(&self.shared);
        let mut hits = Vec::new();
        for link in shared.guards.asked() {
            hits.extend(self.hits(link, &texts).await);
        }
        (hits, self.asked.spent)
    }

    /// What a guard says of each channel that it looks at and that there is text of.
    async fn hits(&mut self, link: &AskedLink, texts: &Texts) -> Vec<Hit> {
        let mut hits = Vec::new();
        for channel in [Channel::User, Channel::Tool, Channel::Output] {
            let of_channel = |window: &&Window| window.channel == channel;
            let windows: Vec<&Window> = texts.windows.iter().filter(of_channel).collect();
            if windows.is_empty() || !link.looks_at(channel) {
                continue;
            }
            let mut scores: Vec<Result<Score, String>> = Vec::with_capacity(windows.len());
            for window in windows {
                scores.push(self.score(link, window).await);
            }
            let verdict = link.verdict(channel, &scores, texts.truncated.contains(&channel));
            let values = scores.iter().filter_map(|score| score.as_ref().ok()).map(|score| score.value);
            let hit = Hit {
                guard: link.name().to_owned(),
                action: link.action(),
                spans: Vec::new(),
                asked_score: values.fold(0.0, f64::max),
                verdict: Some(verdict),
            };
            hits.push(hit);
        }
        hits
    }

    /// While a model loads, or before a guard has learnt, it can't be asked: that is no fault of the request's.
    pub(super) fn refusal(&self, link: &AskedLink, record: &GuardRecord) -> FlowError {
        let role = link.asker().role();
        let backend = self.shared.backend(role);
        let is_early = backend.readiness() == Readiness::Loading || !link.asker().is_ready();
        if record.error.is_some() && record.channel != Channel::Output && is_early {
            return FlowError::Loading { role, model: backend.info().model };
        }
        FlowError::Guarded { guard: record.guard.clone(), reason: record.reason() }
    }

    /// What the guard says of a window. Pieces of answers do not come back, so their scores are not kept.
    pub(super) async fn score(&mut self, link: &AskedLink, window: &Window) -> Result<Score, String> {
        let Window { channel, text, .. } = window;
        if *channel == Channel::Output {
            return self.new_score(link, window).await;
        }
        let key = scores::key(self.tenant.as_deref(), link.name(), (*channel, text));
        if let Some(score) = self.shared.scores.get(&key) {
            return Ok(score);
        }
        let score = self.new_score(link, window).await?;
        self.shared.scores.put(key, score.clone());
        Ok(score)
    }

    async fn new_score(&mut self, link: &AskedLink, window: &Window) -> Result<Score, String> {
        let Window { channel, text, .. } = window;
        match link.ask(&Judged { text, channel: *channel, prompt: &self.prompt }) {
            Ask::Read => {
                let is_known = |reading: &Result<Reading, String>| match reading {
                    Ok(reading) => !link.locates() || reading.tokens.is_some(),
                    Err(_) => true,
                };
                if !self.readings.get(text).is_some_and(is_known) {
                    let reading = self.read(window).await;
                    self.readings.insert(text.clone(), reading);
                }
                match self.readings.get(text) {
                    Some(Ok(reading)) if link.locates() => link.locate(text, reading),
                    Some(Ok(reading)) => link.score(&Answer::Reading(reading)),
                    Some(Err(error)) => Err(error.clone()),
                    None => Err("it was not read".to_owned()),
                }
            }
            Ask::Call { role, request } => self.verdict(link, role, *request).await,
        }
    }

    /// The states at each token of a text are large, and not needed any more.
    pub(super) fn forget_tokens(&mut self, text: &str) {
        if let Some(Ok(reading)) = self.readings.get_mut(text) {
            reading.tokens = None;
        }
    }

    /// Reads a window, for as long as the most patient of the guards that may share the reading waits.
    async fn read(&mut self, window: &Window) -> Result<Reading, String> {
        let Window { channel, text, is_request } = window;
        let guards = &self.shared.guards;
        let readers = guards.asked().iter().filter(|link| link.looks_at(*channel));
        let timeout_ms = readers.clone().map(AskedLink::timeout_ms).max().unwrap_or_default();
        let locates = self.locates && readers.into_iter().any(AskedLink::locates);
        let heads = &self.shared.heads.options;
        let mut layers = guards.layers();
        let keeps = *is_request && heads.tokens_max.is_none();
        let request = match keeps {
            true => {
                layers.extend(&heads.layers);
                layers.sort_unstable();
                layers.dedup();
                Arc::clone(&self.request)
            }
            false => Arc::new(reading_request(format!("{}-guard", self.request.id), text)),
        };
        let token_layers = if locates { guards.token_layers() } else { Vec::new() };
        let options = ReadOptions { layers, token_layers, tokens_max: None };
        let (small, tenant) = (Arc::clone(&self.shared.small), self.tenant.clone());
        let (mut read, is_as_asked) =
            within(timeout_ms, read_as_chat(&small, (request, tenant), &options)).await?;
        if keeps && is_as_asked {
            let reading = read.reading.clone();
            read.reading.tokens = None;
            let before = self.asked.read.replace(read);
            self.asked.spent.extend(before.map(|read| (Role::Small, read.reading.usage)));
            return Ok(reading);
        }
        self.asked.spent.push((Role::Small, read.reading.usage));
        Ok(read.reading)
    }

    /// Has a backend answer until what it says means something to the guard.
    async fn verdict(&mut self, link: &AskedLink, role: Role, request: Request) -> Result<Score, String> {
        let call = Call { request: Arc::new(request), signals: true, tenant: self.tenant.clone() };
        let mut stream = self.shared.backend(role).call(call);
        let (mut tokens, mut usage, mut bytes) = (Vec::new(), Usage::default(), 0);
        let listening = async {
            while let Some(event) = stream.next().await {
                match event {
                    Event::Started(started) => usage = started,
                    Event::Delta(delta) => {
                        usage.completion_tokens += delta.tokens.len() as u64;
                        bytes += delta.text.len();
                        tokens.extend(delta.tokens);
                        let score = link.score(&Answer::Said { tokens: &tokens });
                        if score.is_ok() || bytes > SAID_BYTES_MAX {
                            return Ok(score);
                        }
                    }
                    Event::Finished(finished) => {
                        usage = finished.usage;
                        break;
                    }
                    Event::Failed(error) => return Err(error),
                }
            }
            Ok(link.score(&Answer::Said { tokens: &tokens }))
        };
        let heard = within(link.timeout_ms(), listening).await;
        self.asked.spent.push((role, usage));
        heard?
    }
}

/// Reads a message; with a model that has no chat template its text as it stands, and then says `false`.
async fn read_as_chat(
    small: &Arc<dyn Backend>,
    (request, tenant): (Arc<Request>, Option<Arc<str>>),
    options: &ReadOptions,
) -> Result<(Read, bool), BackendError> {
    let call = |request| Call { request, signals: true, tenant: tenant.clone() };
    match small.read(call(Arc::clone(&request)), options).await {
        Err(error) if error.kind == FailureKind::BadInput => {
            let prompt = request.text();
            let plain = Request { input: Input::Completion { prompt }, ..(*request).clone() };
            Ok((small.read(call(Arc::new(plain)), options).await?, false))
        }
        read => Ok((read?, true)),
    }
}

/// What a backend said, or why it said nothing: in words that quote no text.
async fn within<T>(
    timeout_ms: u64,
    answer: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, String> {
    match timeout(Duration::from_millis(timeout_ms), answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::warn!(kind = ?error.kind, "a guard's question was not answered");
            Err(match error.kind {
                FailureKind::BadInput | FailureKind::TooLong => "the model can't take the text",
                FailureKind::Busy => "the model is busy",
                FailureKind::Unready => "the model is not ready",
                FailureKind::Upstream | FailureKind::Internal => "the model failed",
                FailureKind::Timeout | FailureKind::Deadline => "the model took too long",
            }
            .to_owned())
        }
        Err(_) => Err(format!("the model took longer than {timeout_ms} ms (timeout_ms)")),
    }
}

impl Run {
    /// What comes after the request has its place: guards that ask a model, if there are any for requests.
    pub(super) fn start_asking(&self) -> Phase {
        if !self.shared.guards.asked().iter().any(looks_at_requests) {
            return Phase::Deciding;
        }
        Phase::Asking(Box::pin(self.asking().of_request(self.guarding.vault())))
    }

    fn asking(&self) -> Asking {
        Asking::new(&self.shared, (Arc::clone(&self.request), self.tenant.clone()))
    }

    /// Waits for what models say of the request. The time is Tandem's own.
    pub(super) async fn ask(&mut self) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        let asked = match self.deadline.before(asking).await {
            Ok(asked) => asked,
            Err(error) => return self.fail(error),
        };
        let Asked { records, refusal, escalates, read, spent, redacted } = asked;
        self.phase = Phase::Deciding;
        if let Some((request, vault)) = redacted {
            self.request = request;
            self.guarding.put_values(&self.shared.guards, vault);
        }
        self.guarding.is_unlocated = false;
        self.guarding.cost_usd += self.shared.note_spent(&spent);
        self.guarding.add_input(records);
        self.ahead = read;
        if escalates {
            Arc::make_mut(&mut self.request).options.route = Route::Large;
        }
        if let Some(error) = refusal {
            self.fail(error);
        }
    }

    /// Whether something of the answer is to be judged before more of it leaves.
    pub(super) fn is_judging(&mut self) -> bool {
        if self.judging.is_none()
            && let Some(text) = self.guarding.due()
        {
            let window = Window { channel: Channel::Output, text, is_request: false };
            let asking = self.asking().answering(texts::question(&self.request));
            self.judging = Some(Box::pin(asking.run(Texts { windows: vec![window], ..Texts::default() })));
        }
        self.judging.is_some()
    }

    /// Waits for what models say of the answer so far.
    pub(super) async fn judge(&mut self) {
        let Some(judging) = &mut self.judging else { return };
        let asked = match self.deadline.before(judging).await {
            Ok(asked) => asked,
            Err(error) => return self.fail(error),
        };
        self.judging = None;
        self.guarding.cost_usd += self.shared.note_spent(&asked.spent);
        for delta in self.guarding.add_output(asked.records, asked.refusal.is_some()) {
            self.send(delta);
        }
    }

    /// The request is over: nothing is asked and nothing leaves any more.
    pub(super) fn stop_asking(&mut self) {
        self.judging = None;
        self.guarding.stop();
        self.drop_ahead();
    }
}

impl super::Flow {
    /// What every guard finds in a text by itself, without acting. Guards that ask a model are asked.
    ///
    /// # Errors
    /// If there is no place for asking.
    pub async fn check(
        &self,
        text: &str,
        channel: Channel,
        tenant: Option<&str>,
    ) -> Result<Checked, FlowError> {
        let mut checked = self.guards().check(text, channel);
        checked.hits.extend(self.check_asked(Texts::of_text(text, channel), tenant).await?);
        Ok(checked)
    }

    /// What the guards that ask a model say of texts.
    ///
    /// # Errors
    /// As [`Flow::check`](super::Flow::check).
    pub async fn check_asked(&self, texts: Texts, tenant: Option<&str>) -> Result<Vec<Hit>, FlowError> {
        if self.guards().asked().is_empty() {
            return Ok(Vec::new());
        }
        let tenant: Option<Arc<str>> = tenant.map(Arc::from);
        let caller = Caller { tenant: tenant.clone(), priority: Priority::Interactive };
        let _place = self.shared.admission.enter(caller).await?;
        let request = Arc::new(reading_request("check".to_owned(), ""));
        let (hits, spent) = Asking::new(&self.shared, (request, tenant)).check(texts).await;
        self.shared.note_spent(&spent);
        Ok(hits)
    }

    /// Has the small model read the examples that guards learn from. To be called once, when it is ready.
    ///
    /// # Errors
    /// If it can't read them, or there is nothing to learn from them, naming the guard.
    pub async fn teach_guards(&self) -> Result<(), String> {
        for link in self.guards().asked() {
            let mut readings = Vec::new();
            let options = ReadOptions { layers: link.asker().layers(), ..ReadOptions::default() };
            for (index, lesson) in link.asker().lessons().iter().enumerate() {
                let request = Arc::new(reading_request(format!("lesson-{index}"), lesson));
                let read = read_as_chat(&self.shared.small, (request, None), &options).await;
                readings.push(read.map_err(|error| format!("guard {:?}: {error}", link.name()))?.0.reading);
            }
            link.asker().learn(&readings).map_err(|error| format!("guard {:?}: {error}", link.name()))?;
        }
        Ok(())
    }
}
