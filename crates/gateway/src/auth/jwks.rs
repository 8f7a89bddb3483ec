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
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
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

/// How often a set is asked.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// A set this old is fetched again when it is next needed.
    max_age: Duration,
    /// An unknown key id makes us ask at most this often.
    min_age: Duration,
    /// Without any keys we ask this often: nobody can come in before it succeeds.
    retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            max_age: Duration::from_secs(600),
            min_age: Duration::from_secs(30),
            retry: Duration::from_secs(1),
        }
    }
}

impl Pace {
    /// Whether a set of this age has to be asked again, given whether it has a fitting key.
    fn wanted(&self, found: bool, age: Option<Duration>) -> bool {
        !found || age.is_none_or(|age| age >= self.max_age)
    }

    /// Whether it may be asked now, that long after the last attempt.
    fn allowed(&self, found: bool, age: Option<Duration>, since_last: Option<Duration>) -> bool {
        let pause = match age {
            None => self.retry,
            Some(_) => self.min_age,
        };
        self.wanted(found, age) && since_last.is_none_or(|since| since >= pause)
    }
}

struct Fetched {
    at: Instant,
    /// Keys with their id.
    keys: Vec<(Option<String>, Key)>,
}

/// A key set and its cache.
pub(crate) struct Jwks {
    url: reqwest::Url,
    client: reqwest::Client,
    pace: Pace,
    cache: ArcSwapOption<Fetched>,
    /// Held while fetching; the end of the last attempt.
    fetching: Mutex<Option<Instant>>,
}

impl Jwks {
    pub fn new(url: &str, issuer: Option<&str>) -> Result<Jwks, GatewayError> {
        Jwks::with_pace(url, issuer, Pace::default())
    }

    fn with_pace(url: &str, issuer: Option<&str>, pace: Pace) -> Result<Jwks, GatewayError> {
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
            pace,
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
        let found = cached
            .as_ref()
            .map(|cached| matching(cached, kid, algorithm));
        let found = found.unwrap_or_default();
        let age = cached.as_ref().map(|cached| cached.at.elapsed());
        if !self.pace.wanted(!found.is_empty(), age) {
            return Ok(found);
        }
        if found.is_empty() {
            let mut last = self.fetching.lock().await;
            self.refresh(false, &mut last).await;
        } else if let Ok(mut last) = self.fetching.try_lock() {
            self.refresh(true, &mut last).await;
        } // Else somebody is asking already, and these keys do until he has the answer.
        match self.cache.load_full() {
            Some(cached) => Ok(matching(&cached, kid, algorithm)),
            None => Err(Refused::new(
                ErrorCode::AuthUnavailable,
                "the key set cannot be fetched at the moment",
            )),
        }
    }

    /// Fetches unless somebody did while we waited, or lately. `last` is the end of the last attempt: those who
    /// waited for one that failed do not try one after the other.
    async fn refresh(&self, found: bool, last: &mut Option<Instant>) {
        let age = self.cache.load().as_ref().map(|cached| cached.at.elapsed());
        if !self
            .pace
            .allowed(found, age, last.map(|last| last.elapsed()))
        {
            return;
        }
        // Who stops waiting takes the attempt with him; it has been made all the same.
        *last = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => self.cache.store(Some(Arc::new(Fetched {
                at: Instant::now(),
                keys,
            }))),
            Err(why) => tracing::warn!(url = %self.url, why, "the key set cannot be fetched"),
        }
        *last = Some(Instant::now());
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
        read(&body)
    }
}

/// Reads a key set. A key of a kind that we do not know is left out, and spoils none of the others.
fn read(body: &[u8]) -> Result<Vec<(Option<String>, Key)>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let known = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value(key).ok());
    Ok(known.filter_map(|key: Jwk| usable(&key)).collect())
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

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
