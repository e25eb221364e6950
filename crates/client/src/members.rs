//! The cluster's members: who they are, and how they change.

use buffa::MessageField;
use connectrpc::ConnectError;
use connectrpc::client::CallOptions;
use raftmap_proto::v1::{
    AddMemberRequest, MemberAddresses, MembersRequest, MembersResponse, RemoveMemberRequest,
};

use crate::attempts::{Attempts, call_alone};
use crate::client::Client;
use crate::cluster::Whom;
use crate::dial::Calls;
use crate::error::Error;

impl Client {
    /// Who the members are and where they answer, as one server sees it: the leader if it is known.
    ///
    /// # Errors
    /// [`Error::NotApplied`] if no server answered in time.
    pub async fn members(&self) -> Result<MembersResponse, Error> {
        let members = self.ask_cluster(true, async |calls, options| {
            let members = calls.cluster.members_with_options(MembersRequest::default(), options).await?;
            Ok(members.into_owned())
        });
        let members = members.await?;
        self.cluster().adopt(&members);
        Ok(members)
    }

    /// Takes a server in, in the place of the voter `replaces` if there is one. Ends once it is a learner; it becomes a voter by
    /// itself when it has caught up, which [`Self::members`] shows. Of a member the addresses change, and nothing else. It takes
    /// an operator's certificate.
    ///
    /// # Errors
    /// [`Error::NotApplied`] with the reason; [`Error::OutcomeUnknown`] if no server said in time what came of it: then it may be asked
    /// again.
    pub async fn add_member(&self, member: MemberAddresses, replaces: Option<u64>) -> Result<(), Error> {
        let request = AddMemberRequest {
            member: MessageField::some(member),
            replaces: replaces.unwrap_or_default(),
            ..AddMemberRequest::default()
        };
        self.ask_cluster(false, async |calls, options| {
            calls.cluster.add_member_with_options(request.clone(), options).await.map(drop)
        })
        .await
    }

    /// Lets a member go; ends once it is none. Its id is never used again. It takes an operator's certificate.
    ///
    /// # Errors
    /// As [`Self::add_member`].
    pub async fn remove_member(&self, id: u64) -> Result<(), Error> {
        let request = RemoveMemberRequest { id, ..RemoveMemberRequest::default() };
        self.ask_cluster(false, async |calls, options| {
            calls.cluster.remove_member_with_options(request.clone(), options).await.map(drop)
        })
        .await
    }

    /// Asks until a server answers: what is asked may be repeated.
    async fn ask_cluster<T>(
        &self,
        is_read: bool,
        call: impl AsyncFn(&Calls, CallOptions) -> Result<T, ConnectError>,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::new(self.cluster(), self.timeout(None));
        loop {
            let link = self.cluster().pick(Whom::Leader);
            match call_alone(&link, attempts.until(), &call).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => {
                    attempts.learn(&link, &failed);
                    let failed = if is_read { failed.of_read() } else { failed };
                    attempts.follow(&failed).await?;
                }
            }
        }
    }
}
