//! One key set, fetched from an address of the configuration.
//!
//! Owns the cache: keys of one (issuer, address) by key id and algorithm. An unknown key id asks again, at
//! most every 30 s; while the set cannot be fetched, the keys of before are used. One fetch at a time, bounded
//! in time and size, without following redirects: nothing in a token can steer it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use rowcast_wire::ErrorCode;
use tokio::sync::Mutex;

use super::{
    Refused,
    keys::{self, Key},
};
use crate::GatewayError;

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 256 * 1024;
/// A set this old is fetched again when it is next needed.
const MAX_AGE: Duration = Duration::from_secs(600);
/// An unknown key id makes us ask at most this often.
const MIN_AGE: Duration = Duration::from_secs(30);

struct Fetched {
    at: Instant,
    /// Keys with their id.
    keys: Vec<(Option<String>, Key)>,
}

/// A key set and its cache.
pub(crate) struct Jwks {
    url: reqwest::Url,
    client: reqwest::Client,
    cache: ArcSwapOption<Fetched>,
    /// Held while fetching; the time of the last attempt.
    fetching: Mutex<Option<Instant>>,
}

impl Jwks {
    pub fn new(url: &str, issuer: Option<&str>) -> Result<Jwks, GatewayError> {
        let url =
            reqwest::Url::parse(url).map_err(|error| GatewayError::Jwks(error.to_string()))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(GatewayError::Jwks("it must begin with https://".into()));
        }
        let client = reqwest::Client::builder()
            .timeout(FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| GatewayError::Jwks(error.to_string()))?;
        tracing::debug!(%url, issuer, "keys come from a key set");
        Ok(Jwks {
            url,
            client,
            cache: ArcSwapOption::empty(),
            fetching: Mutex::new(None),
        })
    }

    /// The keys that a token with this header may be checked with.
    pub async fn keys_for(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<Key>, Refused> {
        let cached = self.cache.load_full();
        if let Some(cached) = &cached {
            let found = matching(cached, kid, algorithm);
            if !found.is_empty() && cached.at.elapsed() < MAX_AGE {
                return Ok(found);
            }
        }
        self.refresh(cached.as_ref().map(|cached| cached.at)).await;
        match self.cache.load_full() {
            Some(cached) => Ok(matching(&cached, kid, algorithm)),
            None => Err(Refused::new(
                ErrorCode::AuthUnavailable,
                "the key set cannot be fetched at the moment",
            )),
        }
    }

    /// Fetches unless somebody did since `seen`, or lately.
    async fn refresh(&self, seen: Option<Instant>) {
        let mut last = self.fetching.lock().await;
        let now_cached = self.cache.load().as_ref().map(|cached| cached.at);
        let lately = last.is_some_and(|at| at.elapsed() < MIN_AGE);
        if now_cached != seen
            || (lately && now_cached.is_some())
            || last.is_some_and(|at| at.elapsed() < Duration::from_secs(1))
        {
            return;
        }
        *last = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => self.cache.store(Some(Arc::new(Fetched {
                at: Instant::now(),
                keys,
            }))),
            Err(why) => tracing::warn!(url = %self.url, why, "the key set cannot be fetched"),
        }
    }

    async fn fetch(&self) -> Result<Vec<(Option<String>, Key)>, String> {
        let short = |error: reqwest::Error| error.without_url().to_string();
        let mut response = self
            .client
            .get(self.url.clone())
            .send()
            .await
            .map_err(short)?;
        if !response.status().is_success() {
            return Err(format!("the answer has status {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(short)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err("the answer is larger than 256 KiB".into());
            }
            body.extend_from_slice(&chunk);
        }
        let set: JwkSet = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok(set.keys.iter().filter_map(usable).collect())
    }
}

fn matching(fetched: &Fetched, kid: Option<&str>, algorithm: Algorithm) -> Vec<Key> {
    let fits = fetched
        .keys
        .iter()
        .filter(|(id, key)| key.takes(algorithm) && (kid.is_none() || id.as_deref() == kid));
    fits.map(|(_, key)| key.clone()).collect()
}

/// A public signature key with the algorithms its set allows it; shared secrets do not belong in a set.
fn usable(jwk: &Jwk) -> Option<(Option<String>, Key)> {
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return None;
    }
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => keys::rsa(),
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        _ => return None,
    };
    let algorithms = match jwk.common.key_algorithm {
        None => by_type,
        Some(stated) => {
            let stated: Algorithm = stated.to_string().parse().ok()?;
            by_type
                .into_iter()
                .filter(|algorithm| *algorithm == stated)
                .collect()
        }
    };
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (!algorithms.is_empty()).then(|| (jwk.common.key_id.clone(), Key { key, algorithms }))
}
