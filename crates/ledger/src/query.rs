//! The sums and percentiles of a [`Report`], all read from one state of the database.

use sqlx::{FromRow, SqliteConnection, SqlitePool};

use crate::{BackendLine, Percentiles, Report, ReportQuery, RouteLine, Totals};

/// What every statement here is over; its two parameters are the query's.
macro_rules! arrived {
    () => {
        "r.arrived_unix_ms >= $1 AND r.arrived_unix_ms < $2"
    };
}

/// Sums over attempts `a`.
macro_rules! totals {
    () => {
        "COUNT(*) AS attempts, \
         CAST(SUM(CASE WHEN a.status = 'failed' THEN 1 ELSE 0 END) AS BIGINT) AS failed, \
         CAST(SUM(CASE WHEN a.status = 'cancelled' THEN 1 ELSE 0 END) AS BIGINT) AS cancelled, \
         CAST(SUM(a.prompt_tokens) AS BIGINT) AS prompt_tokens, \
         CAST(SUM(a.cached_tokens) AS BIGINT) AS cached_tokens, \
         CAST(SUM(a.completion_tokens) AS BIGINT) AS completion_tokens, \
         CAST(SUM(a.accepted_prediction_tokens) AS BIGINT) AS accepted_prediction_tokens, \
         CAST(SUM(a.rejected_prediction_tokens) AS BIGINT) AS rejected_prediction_tokens, \
         SUM(a.cost_usd) AS cost_usd"
    };
}

const ROUTES: &str = concat!(
    "SELECT r.route AS route, answer.model AS model, COUNT(*) AS requests, \
     CAST(SUM(CASE WHEN r.status >= 400 AND r.client_gone = 0 THEN 1 ELSE 0 END) AS BIGINT) AS errors, \
     CAST(SUM(r.client_gone) AS BIGINT) AS clients_gone, SUM(r.saved_usd) AS saved_usd \
     FROM requests r LEFT JOIN attempts answer ON answer.request_id = r.id AND answer.ordinal = r.answered \
     WHERE ",
    arrived!(),
    " GROUP BY r.route, answer.model"
);

const ROUTE_TOTALS: &str = concat!(
    "SELECT r.route AS group_name, answer.model AS model, ",
    totals!(),
    " FROM requests r JOIN attempts a ON a.request_id = r.id \
     LEFT JOIN attempts answer ON answer.request_id = r.id AND answer.ordinal = r.answered WHERE ",
    arrived!(),
    " GROUP BY r.route, answer.model"
);

const BACKEND_TOTALS: &str = concat!(
    "SELECT a.role AS group_name, a.model AS model, ",
    totals!(),
    " FROM requests r JOIN attempts a ON a.request_id = r.id WHERE ",
    arrived!(),
    " GROUP BY a.role, a.model"
);

const FEEDBACK: &str = concat!(
    "SELECT COUNT(*) AS rows, AVG(f.score) AS mean \
     FROM feedback f JOIN requests r ON r.id = f.request_id WHERE ",
    arrived!()
);

/// Over these requests a latency says something: the client got all of its answer.
macro_rules! answered_in_full {
    () => {
        "r.status < 400 AND r.client_gone = 0 AND r.answered IS NOT NULL"
    };
}

/// Nearest rank: of n values in order, the one at place ⌈p·n/100⌉.
macro_rules! percentiles {
    ($value:literal, $route:literal, $model:literal, $condition:expr) => {
        concat!(
            "SELECT route, model, place, amount, value FROM (SELECT ",
            $route,
            " AS route, ",
            $model,
            " AS model, ",
            $value,
            " AS value, ROW_NUMBER() OVER (PARTITION BY ",
            $route,
            ", ",
            $model,
            " ORDER BY ",
            $value,
            ") AS place, COUNT(*) OVER (PARTITION BY ",
            $route,
            ", ",
            $model,
            ") AS amount FROM requests r LEFT JOIN attempts answer \
             ON answer.request_id = r.id AND answer.ordinal = r.answered WHERE ",
            arrived!(),
            " AND ",
            $value,
            " IS NOT NULL AND ",
            $condition,
            ") ranked WHERE place IN ((amount * 50 + 99) / 100, (amount * 95 + 99) / 100, \
             (amount * 99 + 99) / 100)"
        )
    };
}

const TOTAL_BY_ROUTE: &str = percentiles!("r.total_ms", "r.route", "answer.model", answered_in_full!());
const FIRST_TOKEN_BY_ROUTE: &str =
    percentiles!("r.first_token_ms", "r.route", "answer.model", answered_in_full!());
const TOTAL: &str = percentiles!("r.total_ms", "''", "NULL", answered_in_full!());
const FIRST_TOKEN: &str = percentiles!("r.first_token_ms", "''", "NULL", answered_in_full!());
const OVERHEAD: &str = percentiles!("r.overhead_ms", "''", "NULL", "1 = 1");

#[derive(FromRow)]
struct RouteSums {
    route: String,
    model: Option<String>,
    requests: i64,
    errors: i64,
    clients_gone: i64,
    saved_usd: f64,
}

#[derive(FromRow)]
struct AttemptSums {
    group_name: String,
    model: Option<String>,
    attempts: i64,
    failed: i64,
    cancelled: i64,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    accepted_prediction_tokens: i64,
    rejected_prediction_tokens: i64,
    cost_usd: f64,
}

#[derive(FromRow)]
struct Ranked {
    route: String,
    model: Option<String>,
    place: i64,
    amount: i64,
    value: f64,
}

#[derive(FromRow)]
struct FeedbackSums {
    rows: i64,
    mean: Option<f64>,
}

/// Adds up what is durable.
pub(crate) async fn report(readers: &SqlitePool, query: ReportQuery) -> Result<Report, sqlx::Error> {
    // One transaction: all statements see the same rows.
    let mut transaction = readers.begin().await?;
    let mut over = Over { connection: &mut transaction, query };
    let routes = over.routes().await?;
    let backends = over.backends().await?;
    let total = over.percentiles(TOTAL).await?;
    let first_token = over.percentiles(FIRST_TOKEN).await?;
    let overhead = over.percentiles(OVERHEAD).await?;
    let feedback: FeedbackSums = over.one(FEEDBACK).await?;

    let of_route = |name: &str| -> u64 {
        routes.iter().filter(|line| line.route == name).map(|line| line.requests).sum()
    };
    let (small, escalated) = (of_route("small"), of_route("escalated"));
    Ok(Report {
        query,
        requests: routes.iter().map(|line| line.requests).sum(),
        errors: routes.iter().map(|line| line.errors).sum(),
        clients_gone: routes.iter().map(|line| line.clients_gone).sum(),
        totals: backends.iter().fold(Totals::default(), |sum, line| sum.plus(&line.totals)),
        saved_usd: routes.iter().map(|line| line.saved_usd).sum(),
        escalation_rate: (small + escalated > 0).then(|| escalated as f64 / (small + escalated) as f64),
        routes,
        backends,
        total,
        first_token,
        overhead,
        feedback_rows: count(feedback.rows),
        feedback_mean: feedback.mean,
    })
}

/// A connection with the span of time that its statements are over.
struct Over<'a> {
    connection: &'a mut SqliteConnection,
    query: ReportQuery,
}

impl Over<'_> {
    async fn all<T>(&mut self, sql: &'static str) -> Result<Vec<T>, sqlx::Error>
    where
        T: for<'r> FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
    {
        let (since, until) = self.query.bounds();
        sqlx::query_as(sql).bind(since).bind(until).fetch_all(&mut *self.connection).await
    }

    async fn one<T>(&mut self, sql: &'static str) -> Result<T, sqlx::Error>
    where
        T: for<'r> FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
    {
        let (since, until) = self.query.bounds();
        sqlx::query_as(sql).bind(since).bind(until).fetch_one(&mut *self.connection).await
    }

    async fn percentiles(&mut self, sql: &'static str) -> Result<Option<Percentiles>, sqlx::Error> {
        Ok(pick(&self.all(sql).await?, |_| true))
    }

    async fn routes(&mut self) -> Result<Vec<RouteLine>, sqlx::Error> {
        let mut sums: Vec<RouteSums> = self.all(ROUTES).await?;
        let totals: Vec<AttemptSums> = self.all(ROUTE_TOTALS).await?;
        let total: Vec<Ranked> = self.all(TOTAL_BY_ROUTE).await?;
        let first_token: Vec<Ranked> = self.all(FIRST_TOKEN_BY_ROUTE).await?;
        sums.sort_by(|left, right| (&left.route, &left.model).cmp(&(&right.route, &right.model)));
        let lines = sums.into_iter().map(|sums| {
            let same = |row: &Ranked| row.route == sums.route && row.model == sums.model;
            let own = totals.iter().find(|own| own.group_name == sums.route && own.model == sums.model);
            RouteLine {
                requests: count(sums.requests),
                errors: count(sums.errors),
                clients_gone: count(sums.clients_gone),
                totals: own.map(AttemptSums::totals).unwrap_or_default(),
                saved_usd: sums.saved_usd,
                total: pick(&total, same),
                first_token: pick(&first_token, same),
                route: sums.route.clone(),
                model: sums.model.clone(),
            }
        });
        Ok(lines.collect())
    }

    async fn backends(&mut self) -> Result<Vec<BackendLine>, sqlx::Error> {
        let mut sums: Vec<AttemptSums> = self.all(BACKEND_TOTALS).await?;
        sums.sort_by(|left, right| (&left.group_name, &left.model).cmp(&(&right.group_name, &right.model)));
        let lines = sums.into_iter().map(|sums| BackendLine {
            totals: sums.totals(),
            role: sums.group_name,
            model: sums.model.unwrap_or_default(),
        });
        Ok(lines.collect())
    }
}

impl AttemptSums {
    fn totals(&self) -> Totals {
        Totals {
            attempts: count(self.attempts),
            failed: count(self.failed),
            cancelled: count(self.cancelled),
            prompt_tokens: count(self.prompt_tokens),
            cached_tokens: count(self.cached_tokens),
            completion_tokens: count(self.completion_tokens),
            accepted_prediction_tokens: count(self.accepted_prediction_tokens),
            rejected_prediction_tokens: count(self.rejected_prediction_tokens),
            cost_usd: self.cost_usd,
        }
    }
}

/// The percentiles among the ranked values of one group; `None`: it has no values.
fn pick(ranked: &[Ranked], mine: impl Fn(&Ranked) -> bool) -> Option<Percentiles> {
    let at = |percent: i64| {
        let value = ranked.iter().find(|row| mine(row) && row.place == (row.amount * percent + 99) / 100);
        value.map(|row| row.value)
    };
    Some(Percentiles { p50_ms: at(50)?, p95_ms: at(95)?, p99_ms: at(99)? })
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
