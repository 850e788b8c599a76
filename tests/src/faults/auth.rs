//! What a wiped Redis must not forget: who signed out, and which handshakes were used.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use common::api_types::{JobList, paths};
use common::protocol::token::{EMPTY_SHA256, Request};
use common::protocol::{TOKEN_HEADER, WEBSOCKET_PATH};
use common::time::{Clock, SystemClock};
use http::Method;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use worker_agent::config::AUDIENCE_DEFAULT;

use super::stage::Stage;
use crate::client::{Client, refusal};
use crate::wait::{LONG, wait_for};

const UNAUTHORIZED: u16 = 401;
/// From here on nothing was decided.
const UNSURE: u16 = 500;

const HANDSHAKE: Request<'static> = Request {
    method: "GET",
    path: WEBSOCKET_PATH,
    audience: AUDIENCE_DEFAULT,
    body_sha256: EMPTY_SHA256,
};

pub async fn redis_forgets(stage: &mut Stage) -> Result<()> {
    stage.lasts(50, 1_000).await;
    let signed_out = stage.fleet.client_at(stage.front.address()).await?;
    let told = signed_out.request(Method::POST, paths::LOGOUT).send().await?;
    ensure!(
        told.status().is_success(),
        "signing out was answered {}",
        told.status()
    );
    // of a worker that nobody is, so that no agent is turned away
    let nobody = stage.worker("nobody")?;
    let key = stage.fleet.worker_key(&nobody)?;
    // one that stays broken answers nobody
    let schedulers = stage.fleet.schedulers.iter().enumerate();
    let gateways: Vec<SocketAddr> = schedulers
        .filter(|(number, _)| stage.out != Some(*number))
        .map(|(_, program)| program.address)
        .collect();
    let first = *gateways.first().context("there is a scheduler")?;
    let mut refused = 0;
    let used = wait_for(LONG, "a handshake", async || {
        // A fresh one each time: one that was not answered may be used up.
        let token = key.sign(&HANDSHAKE, SystemClock.now());
        match handshake_once(first, &token).await {
            // The first that a wiped Redis sees was signed before its birth; the second was not.
            Ok(UNAUTHORIZED) => {
                refused += 1;
                match refused {
                    1 => Err("it was refused".to_owned()),
                    _ => Ok(Err(anyhow!("a fresh handshake was refused twice"))),
                }
            }
            Ok(status) if status >= UNSURE => Err(format!("it was answered {status}")),
            Ok(_) => Ok(Ok(token)),
            Err(error) => Err(format!("{error:#}")),
        }
    });
    let token = used.await??;

    stage.fault("Redis is wiped after a sign-out and a handshake");
    stage.fleet.redis.flush_all().await;
    for gateway in gateways {
        let answer = handshake(gateway, &token).await?;
        ensure!(answer == UNAUTHORIZED, "a used handshake was answered {answer}");
    }
    for api in &stage.fleet.apis {
        let base = format!("http://{}", api.address);
        let there = Client::new(&base)?.with_token(signed_out.token());
        let answer = wait_for(LONG, "an answer to a revoked session", async || {
            match refusal(there.get::<JobList>(paths::JOBS).await) {
                Ok(refused) if refused.status >= UNSURE => Err(format!("{}", refused.status)),
                Ok(refused) => Ok(Ok(refused.status)),
                Err(error) => Ok(Err(error)),
            }
        })
        .await??;
        ensure!(answer == UNAUTHORIZED, "a revoked session was answered {answer}");
    }
    Ok(())
}

/// The status with which a gateway answers, once it can tell: while it cannot ask its stores it lets nobody in.
async fn handshake(gateway: SocketAddr, token: &str) -> Result<u16> {
    wait_for(LONG, "a gateway's answer", async || {
        match handshake_once(gateway, token).await {
            Ok(status) if status >= UNSURE => Err(format!("it answered {status}")),
            Ok(status) => Ok(status),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await
}

async fn handshake_once(gateway: SocketAddr, token: &str) -> Result<u16> {
    let mut request = format!("ws://{gateway}{WEBSOCKET_PATH}").into_client_request()?;
    request.headers_mut().insert(TOKEN_HEADER, token.parse()?);
    match connect_async(request).await {
        Ok((_, answer)) => Ok(answer.status().as_u16()),
        Err(Error::Http(answer)) => Ok(answer.status().as_u16()),
        Err(error) => bail!("the gateway does not answer: {error}"),
    }
}
