//! Who gets in: by address, by password, or by another server's word.

use std::net::IpAddr;

use http::StatusCode;

use super::facts::Facts;
use super::{Passage, Policy, Refusal};
use crate::model::{Access, Satisfy};

impl Policy {
    /// Asks the checks that the route has, the cheap ones first, until the outcome is clear.
    pub(super) async fn check_access(
        &self,
        facts: &Facts<'_>,
        client: IpAddr,
        pass: &mut Passage,
    ) -> Result<(), Refusal> {
        let access = &self.rules.access;
        let mut tally = Tally { one_is_enough: access.satisfy == Satisfy::Any, refusal: None };
        if (access.allow.is_some() || access.deny.is_some()) && tally.is_clear(check_networks(access, client))
        {
            return tally.outcome();
        }
        if let Some(basic) = &self.basic
            && tally.is_clear(Box::pin(basic.check(facts, client)).await)
        {
            return tally.outcome();
        }
        if let Some(external) = &self.external {
            tally.is_clear(Box::pin(external.check(facts, client, pass)).await);
        }
        tally.outcome()
    }
}

/// How checks count together.
struct Tally {
    one_is_enough: bool,
    refusal: Option<Refusal>,
}

impl Tally {
    /// Takes a check's word; true if no other can change the outcome.
    fn is_clear(&mut self, verdict: Result<(), Refusal>) -> bool {
        match verdict {
            Ok(()) if self.one_is_enough => {
                self.refusal = None;
                true
            }
            Ok(()) => false,
            Err(refusal) => {
                // What the client can do something about goes before what it can't.
                let asks = |known: &Refusal| known.response.status() == StatusCode::UNAUTHORIZED;
                let is_final = refusal.response.status() != StatusCode::FORBIDDEN;
                if is_final || !self.refusal.as_ref().is_some_and(asks) {
                    self.refusal = Some(refusal);
                }
                !self.one_is_enough
            }
        }
    }

    fn outcome(self) -> Result<(), Refusal> {
        self.refusal.map_or(Ok(()), Err)
    }
}

fn check_networks(access: &Access, client: IpAddr) -> Result<(), Refusal> {
    let denied = access.deny.as_deref().is_some_and(|nets| nets.iter().any(|net| net.contains(&client)));
    let allowed = access.allow.as_deref().is_none_or(|nets| nets.iter().any(|net| net.contains(&client)));
    if denied || !allowed {
        let why = "the client's address is not let in";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "this is not open to your address", why));
    }
    Ok(())
}
