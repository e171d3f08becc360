//! Legs A and A': servers for Entra. Leg B: the tenant for servers.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{
    Leg, POOLS, Reason, Signer, TrustProbe, Verifier,
    servers::{active, named, signing_entry},
};
use crate::{certificate::Certificate, hybrid::Cloud, organization::AppPath, server::Server};

impl TrustProbe {
    /// An organization whose own objects have closed its way to the cloud signs nothing for it: that is for `Test-OAuthConnectivity` to tell.
    pub(super) fn look_at_cloud(&mut self, now: DateTime<Utc>, servers: &[Server], cloud: &Cloud) {
        let application = cloud.path().and_then(|path| Some((path, cloud.tenant.verifying(path)?)));
        if let Some((path, application)) = application {
            let leg = match path {
                AppPath::Dedicated => Leg::Dedicated,
                AppPath::Shared => Leg::Shared,
            };
            for replica in 0..cloud.tenant.replicas() {
                self.look_at_replica(now, leg, servers, cloud, application, replica);
            }
        }
        for server in active(servers) {
            self.look_from_cloud(now, server, cloud);
        }
    }

    fn look_at_replica(
        &mut self,
        now: DateTime<Utc>,
        leg: Leg,
        servers: &[Server],
        cloud: &Cloud,
        application: usize,
        replica: usize,
    ) {
        let (keys, read) = cloud.tenant.trusted_keys(application, replica, now);
        let valid = keys.iter().filter(|key| key.is_valid_at(now));
        let accepted: Vec<Arc<Certificate>> = valid.map(|key| key.certificate.clone()).collect();
        let name = || format!("{}/replica {replica}", cloud.tenant.objects()[application].display_name);
        let verifier = Verifier { name: &name, accepted: &accepted, read };
        for (server, pool) in active(servers).flat_map(|server| POOLS.map(|pool| (server, pool))) {
            let process = server.process(pool);
            let name = || named(server, process);
            let signs = signing_entry(now, server, &process.keys);
            let signer = Signer { name: &name, thumbprint: process.keys.current.as_ref(), signs };
            self.check(now, leg, &signer, &verifier);
        }
    }

    fn look_from_cloud(&mut self, now: DateTime<Utc>, server: &Server, cloud: &Cloud) {
        let certificate = cloud.tenant.signing_certificate();
        let verdict = match cloud.servers_trust_the_tenant() {
            _ if !certificate.is_valid_at(now) => Err(Reason::Expired),
            false => Err(Reason::UnknownKey),
            true => Ok(()),
        };
        let (name, of_server) = (|| format!("tenant {}", cloud.tenant.spec.tenant_id), || server.spec.fqdn.clone());
        let signer = Signer { name: &name, thumbprint: Some(&certificate.thumbprint), signs: Err(Reason::UnknownKey) };
        let verifier = Verifier { name: &of_server, accepted: &[], read: now };
        self.count(now, Leg::FromCloud, &signer, &verifier, verdict);
    }
}
