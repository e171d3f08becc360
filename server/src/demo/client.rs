//! A person who calls the API.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use api::{Claims, Role};
use chrono::{TimeDelta, Utc};
use reqwest::{Method, header};
use serde_json::Value as Json;

use crate::{config::Config, service};

/// A person with a token.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    pub(super) fn new(config: &Config, address: SocketAddr, name: &str, role: Role) -> anyhow::Result<Self> {
        let claims = Claims::new(name, vec![role], Vec::new(), Utc::now(), TimeDelta::hours(1));
        Ok(Self {
            http: reqwest::Client::builder().no_proxy().build()?,
            base: format!("http://{address}"),
            token: service::tokens(config)?.mint(&claims)?,
        })
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Json> {
        self.call(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Json) -> anyhow::Result<Json> {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Json>) -> anyhow::Result<Json> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(&self.token);
        request = request.header(header::ACCEPT, "application/json");
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let answer: Json = response.json().await.with_context(|| format!("{method} {path} answered {status}"))?;
        if !status.is_success() {
            bail!("{method} {path}: {} {}", answer["detail"], answer["action"]);
        }
        Ok(answer)
    }
}
