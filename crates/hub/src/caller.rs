//! Who a socket is to the application.

use rowcast_model::{Caller, Claims, Method, OrgId};

use crate::{Auth, Connection, Hub, HubError};

impl Hub {
    /// Who a connection is to the application.
    pub fn caller(
        &self,
        connection: &Connection,
        organization: Option<&OrgId>,
    ) -> Result<Caller, HubError> {
        let mut state = self.state.lock();
        let conn = state.conn(connection).ok_or(HubError::Closed)?;
        let identity = conn.about.identity.clone();
        let session = matches!(identity.auth, Auth::Session { .. });
        Ok(Caller {
            user_id: session.then(|| identity.user.clone()),
            organization_id: organization.cloned(),
            roles: std::sync::Arc::new([]),
            auth_method: if session {
                Method::Session
            } else {
                Method::ApiKey
            },
            api_key_id: None,
            connection_id: connection.id(),
            claims: Claims(serde_json::value::RawValue::NULL.to_owned().into()),
        })
    }
}
