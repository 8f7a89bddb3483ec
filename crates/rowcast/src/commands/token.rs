//! `rowcast token`: tokens for development, signed with the key the service has.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::{
    cli::TokenArgs,
    config::{Config, Setting, Span},
    term,
};

/// What the token says.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    organizations: Vec<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    org_roles: BTreeMap<&'a str, &'a [String]>,
}

/// Whom a token is for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// `sub`.
    pub user: &'a str,
    /// The organization, as a claim.
    pub organization: Option<&'a str>,
    /// Roles in it, as claims.
    pub roles: &'a [String],
    /// How long it is good.
    pub good_for: Span,
}

/// Makes a token.
pub fn make(config: &Config, wanted: Wanted<'_>) -> anyhow::Result<String> {
    let secret = config.signing_secret()?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let claims = Claims {
        sub: wanted.user,
        iat: now,
        exp: now.saturating_add(wanted.good_for.0.as_secs()),
        iss: config.auth.jwt_issuer.as_deref(),
        aud: config.auth.jwt_audience.first().map(String::as_str),
        organizations: wanted.organization.into_iter().collect(),
        org_roles: wanted
            .organization
            .filter(|_| !wanted.roles.is_empty())
            .map(|organization| (organization, wanted.roles))
            .into_iter()
            .collect(),
    };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    Ok(jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &key,
    )?)
}

/// Prints a token.
pub fn run(config: &Config, args: &TokenArgs) -> anyhow::Result<()> {
    let good_for = Span::read(&args.expires.as_str().into())
        .map_err(|why| anyhow::anyhow!("--expires {why}"))?;
    if args.organization.is_some() && !config.auth.trust_claims {
        term::note(
            "note: claims count only where the service has auth.trust_claims; memberships always do",
        );
    }
    term::line(make(
        config,
        Wanted {
            user: &args.user,
            organization: args.organization.as_deref(),
            roles: &args.role,
            good_for,
        },
    )?);
    Ok(())
}
