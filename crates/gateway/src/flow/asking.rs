//! Asks models what guards want to know: [`Asking`]. What the answers mean, and what follows, is the guards' business.
//!
//! A text is read once however many guards want its reading, and a request that is nothing but the text is read as
//! itself: its [`Read`] goes on to whoever needs it next. What was judged before is not asked about again.

use std::pin::Pin;
use std::sync::Arc;

use contract::{
    Backend, BackendError, Call, Channel, Event, FailureKind, GuardAction, GuardRecord, Input, Priority,
    Read, ReadOptions, Readiness, Reading, Request, Role, Route, Usage,
};
use futures_util::StreamExt;
use policy::guards::asked::{Answer, Ask, AskedLink, Judged, Score, Texts, Window, reading_request, texts};
use policy::guards::{Checked, Hit};
use tokio::time::{Duration, timeout};

use super::admission::Caller;
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
}

/// An [`Asked`] to come.
pub(super) type AskFuture = Pin<Box<dyn Future<Output = Asked> + Send>>;

/// Asks about the texts of one request, or one piece of an answer.
pub(super) struct Asking {
    shared: Arc<Shared>,
    /// The request that the texts are of, or one like it.
    request: Arc<Request>,
    tenant: Option<Arc<str>>,
    windows: Vec<Window>,
    /// What the user asked, of an answer's windows.
    prompt: String,
    /// Of each window, once somebody wanted it.
    readings: Vec<Option<Result<Reading, String>>>,
    asked: Asked,
}

impl Asking {
    pub(super) fn new(
        shared: &Arc<Shared>,
        (request, tenant): (Arc<Request>, Option<Arc<str>>),
        windows: Vec<Window>,
    ) -> Self {
        let readings = vec![None; windows.len()];
        let asked =
            Asked { records: Vec::new(), refusal: None, escalates: false, read: None, spent: Vec::new() };
        Asking {
            shared: Arc::clone(shared),
            request,
            tenant,
            windows,
            prompt: String::new(),
            readings,
            asked,
        }
    }

    /// The prompt that what is judged answers.
    pub(super) fn answering(mut self, prompt: String) -> Self {
        self.prompt = prompt;
        self
    }

    /// Asks all guards in order, until one refuses.
    pub(super) async fn run(mut self, truncated: Vec<Channel>) -> Asked {
        let shared = Arc::clone(&self.shared);
        for link in shared.guards.asked() {
            for hit in self.hits(link, &truncated).await {
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
    pub(super) async fn check(mut self, truncated: Vec<Channel>) -> (Vec<Hit>, Vec<(Role, Usage)>) {
        let shared = Arc::clone(&self.shared);
        let mut hits = Vec::new();
        for link in shared.guards.asked() {
            hits.extend(self.hits(link, &truncated).await);
        }
        (hits, self.asked.spent)
    }

    /// What a guard says of each channel that it looks at and that there is text of.
    async fn hits(&mut self, link: &AskedLink, truncated: &[Channel]) -> Vec<Hit> {
        let mut hits = Vec::new();
        for channel in [Channel::User, Channel::Tool, Channel::Output] {
            let of_channel = |index: &usize| self.windows[*index].channel == channel;
            let windows: Vec<usize> = (0..self.windows.len()).filter(of_channel).collect();
            if windows.is_empty() || !link.looks_at(channel) {
                continue;
            }
            let mut scores: Vec<Result<Score, String>> = Vec::with_capacity(windows.len());
            for index in windows {
                scores.push(self.score(link, index).await);
            }
            let verdict = link.verdict(channel, &scores, truncated.contains(&channel));
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
    fn refusal(&self, link: &AskedLink, record: &GuardRecord) -> FlowError {
        let role = link.asker().role();
        let backend = self.shared.backend(role);
        let is_early = backend.readiness() == Readiness::Loading || !link.asker().is_ready();
        if record.error.is_some() && record.channel != Channel::Output && is_early {
            return FlowError::Loading { role, model: backend.info().model };
        }
        FlowError::Guarded { guard: record.guard.clone(), reason: record.reason() }
    }

    /// What the guard says of a window. Pieces of answers do not come back, so their scores are not kept.
    async fn score(&mut self, link: &AskedLink, index: usize) -> Result<Score, String> {
        let Window { channel, text, .. } = &self.windows[index];
        if *channel == Channel::Output {
            return self.new_score(link, index).await;
        }
        let key = scores::key(self.tenant.as_deref(), link.name(), (*channel, text));
        if let Some(score) = self.shared.scores.get(&key) {
            return Ok(score);
        }
        let score = self.new_score(link, index).await?;
        self.shared.scores.put(key, score.clone());
        Ok(score)
    }

    async fn new_score(&mut self, link: &AskedLink, index: usize) -> Result<Score, String> {
        let Window { channel, text, .. } = &self.windows[index];
        match link.ask(&Judged { text, channel: *channel, prompt: &self.prompt }) {
            Ask::Read => {
                if self.readings[index].is_none() {
                    self.readings[index] = Some(self.read(index).await);
                }
                match &self.readings[index] {
                    Some(Ok(reading)) => link.score(&Answer::Reading(reading)),
                    Some(Err(error)) => Err(error.clone()),
                    None => Err("it was not read".to_owned()),
                }
            }
            Ask::Call { role, request } => self.verdict(link, role, *request).await,
        }
    }

    /// Reads a window, for as long as the most patient of the guards that may share the reading waits.
    async fn read(&mut self, index: usize) -> Result<Reading, String> {
        let Window { channel, text, is_request } = &self.windows[index];
        let readers = self.shared.guards.asked().iter().filter(|link| link.looks_at(*channel));
        let timeout_ms = readers.map(AskedLink::timeout_ms).max().unwrap_or_default();
        let heads = &self.shared.heads.options;
        let mut layers = self.shared.guards.layers();
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
        let options = ReadOptions { layers, tokens_max: None };
        let (small, tenant) = (Arc::clone(&self.shared.small), self.tenant.clone());
        let (read, is_as_asked) =
            within(timeout_ms, read_as_chat(&small, (request, tenant), &options)).await?;
        if keeps && is_as_asked {
            let reading = read.reading.clone();
            self.asked.read = Some(read);
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
        let channels = [Channel::User, Channel::Tool];
        let asks = |link: &AskedLink| channels.iter().any(|channel| link.looks_at(*channel));
        if !self.shared.guards.asked().iter().any(asks) {
            return Phase::Deciding;
        }
        let Texts { windows, truncated } = Texts::of_request(&self.request);
        Phase::Asking(Box::pin(self.asking(windows).run(truncated)))
    }

    fn asking(&self, windows: Vec<Window>) -> Asking {
        Asking::new(&self.shared, (Arc::clone(&self.request), self.tenant.clone()), windows)
    }

    /// Waits for what models say of the request. The time is Tandem's own.
    pub(super) async fn ask(&mut self) {
        let Phase::Asking(asking) = &mut self.phase else { return };
        let Asked { records, refusal, escalates, read, spent } = match self.deadline.before(asking).await {
            Ok(asked) => asked,
            Err(error) => return self.fail(error),
        };
        self.phase = Phase::Deciding;
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
            let asking = self.asking(vec![window]).answering(texts::question(&self.request));
            self.judging = Some(Box::pin(asking.run(Vec::new())));
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
        let (hits, spent) =
            Asking::new(&self.shared, (request, tenant), texts.windows).check(texts.truncated).await;
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
            let options = ReadOptions { layers: link.asker().layers(), tokens_max: None };
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
