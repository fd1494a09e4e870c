//! A server over scripted backends, to try clients against without a model:
//! `cargo run -p gateway --example scripted -- 127.0.0.1:8080`, then
//! `python3 tests/clients/openai_client.py http://127.0.0.1:8080/v1`.

use std::sync::Arc;

use backends::{Reply, ScriptedBackend};
use contract::Price;
use gateway::{Flow, FlowHeads, FlowParts, Gateway, GatewaySettings, Metrics};
use policy::PolicySettings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut settings = GatewaySettings::default();
    if let Some(listen) = std::env::args().nth(1) {
        settings.listen = listen.parse()?;
    }
    let price = |usd| Price { input_usd_per_mtok: usd, output_usd_per_mtok: usd, ..Price::default() };
    let small = ScriptedBackend::new("scripted-small")
        .price(price(0.1))
        .when("hard", Reply::text("I am not at all sure about this one, to be honest.").logprob(-3.0))
        .otherwise(Reply::text("A short answer from the small model.").logprob(-0.01).delta_delay_ms(5));
    let large = ScriptedBackend::new("scripted-large")
        .price(price(1.0))
        .otherwise(Reply::text("A considered answer from the large model.").delta_delay_ms(10));
    let flow = Flow::new(FlowParts {
        policy: Arc::from(policy::build(&PolicySettings { window_tokens: 4, ..PolicySettings::default() })?),
        small: Arc::new(small),
        large: Arc::new(large),
        ledger: None,
        heads: FlowHeads::default(),
        limits: settings.flow_limits(),
        metrics: Metrics::new()?,
        guards: policy::guards::Chain::default(),
    });
    let gateway = Gateway::bind(settings, flow).await?;
    println!("listening on http://{}", gateway.local_addr());
    gateway.serve(async { drop(tokio::signal::ctrl_c().await) }).await;
    Ok(())
}
