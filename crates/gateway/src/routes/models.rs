//! `/v1/models`: the names that `model` may hold.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::App;
use crate::wire::{self, ApiError};

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl Model {
    fn new(app: &App, id: String) -> Self {
        Model { id, object: "model", created: app.started_unix_s, owned_by: "tandem" }
    }
}

pub(super) async fn list(State(app): State<App>) -> Response {
    let data = app.models.names().into_iter().map(|id| Model::new(&app, id)).collect();
    wire::json(List { object: "list", data })
}

pub(super) async fn one(State(app): State<App>, id: Result<Path<String>, PathRejection>) -> Response {
    let id = match super::path_id(id) {
        Ok(id) => id,
        Err(error) => return error.into_response(),
    };
    let known = app.models.names();
    if known.contains(&id) {
        return wire::json(Model::new(&app, id));
    }
    ApiError::model_not_found(&id, &known).into_response()
}
