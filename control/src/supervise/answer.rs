//! Each request to its answer.

use super::Supervisor;
use super::session::SessionError;
use crate::api::{Failure, QUESTIONS_MAX, Question, Reply, Request, code};
use crate::attachment;
use crate::explain::{self, Directory};
use crate::file::parse::{Syntax, parse};
use crate::flows::{self, Names};
use crate::lint;
use crate::listing::ExplainView;
use crate::object::{Object, ObjectChange};
use crate::serve::ReplyTo;
use crate::state::State;
use crate::trial;
use std::path::Path;

impl Supervisor {
    pub(super) async fn answer(&mut self, request: Request, reply: ReplyTo) {
        let answer = match request {
            Request::Status => Reply::of(Ok(self.status_view())),
            Request::Runtime => Reply::of(self.need_dataplane().map(|()| self.runtime_view())),
            Request::Interfaces => Reply::of(Ok(self.interface_views())),
            Request::Endpoints => Reply::of(Ok(self.endpoint_views())),
            Request::Services => Reply::of(Ok(self.service_views())),
            Request::ServicesWide => return self.answer_services(reply),
            Request::Addresses => Reply::of(Ok(self.address_views())),
            Request::Policies => Reply::of(Ok(self.policy_views())),
            Request::PoliciesDiff { file, delete } => {
                return self.answer_diff(file.as_deref(), delete.as_deref(), reply);
            }
            Request::PoliciesLint => return self.answer_lint(reply),
            Request::Routes => Reply::of(Ok(self.route_views())),
            Request::Drops => Reply::of(self.need_dataplane().map(|()| self.drop_views())),
            Request::Flows => return self.answer_flows(reply),
            Request::Metrics => Reply::of(Ok(self.metrics())),
            Request::Ready => Reply::of(self.ready()),
            Request::Bundle { file } => return self.answer_bundle(file, reply),
            Request::Explain(question) => Reply::of(self.explain(question).await),
            Request::ExplainAll { questions } => Reply::of(self.explain_all(questions).await),
            Request::CniAdd(pod) => return self.cni_add(pod, reply),
            Request::CniDel(pod) => {
                return self.cni_del(&attachment::key(&pod.container, &pod.ifname), Some(reply)).await;
            }
            Request::CniCheck(pod) => return self.cni_check(pod, reply),
            Request::CniStatus => Reply::of(self.cni_status()),
            Request::CniGc { network, valid } => Reply::of(self.cni_gc(&network, valid).await),
        };
        let _ = reply.send(answer);
    }

    fn need_dataplane(&self) -> Result<(), Failure> {
        match self.dataplane {
            Some(_) => Ok(()),
            None => Err(Failure::new(code::FAILED, "the dataplane is gone: `fairway status` says why")),
        }
    }

    fn ready(&self) -> Result<(), Failure> {
        self.need_dataplane()?;
        if !self.state.is_complete() || self.publisher.generation() == 0 {
            return Err(Failure::new(code::FAILED, "the tables are not published yet"));
        }
        match self.problems.get("source") {
            Some(sentence) => Err(Failure::new(code::FAILED, sentence)),
            None => Ok(()),
        }
    }

    fn answer_flows(&self, reply: ReplyTo) {
        let copies = self.flow_regions();
        let names = self.flow_names();
        std::thread::spawn(move || {
            let listed = copies.map_err(|error| error.to_string());
            let listed = listed.and_then(|regions| flows::list(regions, &names).map_err(|error| error.to_string()));
            let _ = reply.send(Reply::of(listed.map_err(|text| Failure::new(code::FAILED, text))));
        });
    }

    fn answer_lint(&self, reply: ReplyTo) {
        let state = self.state.for_policies();
        std::thread::spawn(move || reply.send(Reply::of(Ok(lint::findings(&state)))));
    }

    /// The state with the files' objects in it, or without them, is tried on a thread of its own.
    fn answer_diff(&self, file: Option<&Path>, delete: Option<&Path>, reply: ReplyTo) {
        let changed = match self.state_with(file, delete) {
            Ok(changed) => changed,
            Err(failure) => return drop(reply.send(Reply::Failed(failure))),
        };
        let copies = self.flow_regions();
        std::thread::spawn(move || {
            let changes = copies.map_err(|error| error.to_string());
            let changes =
                changes.and_then(|regions| trial::flow_changes(changed, regions).map_err(|error| error.to_string()));
            let _ = reply.send(Reply::of(changes.map_err(|text| Failure::new(code::FAILED, text))));
        });
    }

    /// Everything about policies, without the objects of one file and with those of another in place of what there is.
    fn state_with(&self, file: Option<&Path>, delete: Option<&Path>) -> Result<State, Failure> {
        self.need_dataplane()?;
        let mut state = self.state.for_policies();
        for object in delete.map(objects_of).transpose()?.into_iter().flatten() {
            state.apply(ObjectChange::Delete(object.key()));
        }
        for object in file.map(objects_of).transpose()?.into_iter().flatten() {
            state.apply(ObjectChange::Put(object));
        }
        Ok(state)
    }

    /// With what goes to each backend.
    fn answer_services(&self, reply: ReplyTo) {
        let (mut views, copies) = (self.service_views(), self.flow_regions());
        std::thread::spawn(move || {
            let counted = copies.map_err(|error| error.to_string());
            let counted = counted.and_then(|regions| flows::by_backend(regions).map_err(|error| error.to_string()));
            let counted = counted.map(|loads| {
                views.iter_mut().for_each(|view| view.add_loads(&loads));
                views
            });
            let _ = reply.send(Reply::of(counted.map_err(|text| Failure::new(code::FAILED, text))));
        });
    }

    pub(super) fn flow_names(&self) -> Names {
        let named = |name: &String| self.pod_at(name).unwrap_or_else(|| name.clone());
        let services = self.compiler.services().into_iter();
        Names {
            interfaces: self.interfaces().map(|info| (info.id, named(&info.spec.name))).collect(),
            services: services.map(|service| (service.id, format!("{}/{}", service.namespace, service.name))).collect(),
        }
    }

    /// A question that cannot be answered does not keep the others from it.
    async fn explain_all(&mut self, questions: Vec<Question>) -> Result<Vec<ExplainView>, Failure> {
        if questions.len() > QUESTIONS_MAX {
            return Err(Failure::new(code::FAILED, format!("more than {QUESTIONS_MAX} questions in one request")));
        }
        let mut told = Vec::new();
        for question in questions {
            self.need_dataplane()?;
            let unknown = |failure: Failure| ExplainView {
                verdict: "unknown".to_owned(),
                reason: Some(failure.message),
                ..ExplainView::default()
            };
            told.push(self.explain(question).await.unwrap_or_else(unknown));
        }
        Ok(told)
    }

    async fn explain(&mut self, question: Question) -> Result<ExplainView, Failure> {
        self.need_dataplane()?;
        let query = explain::query(self, &question)?;
        let Some(dataplane) = &mut self.dataplane else { return self.need_dataplane().map(|()| unreachable!()) };
        match dataplane.explain(query).await {
            Ok(explained) => Ok(explain::view(self, explained)),
            Err(error @ SessionError::Refused { .. }) => Err(Failure::new(code::FAILED, error)),
            Err(error) => {
                self.lose_dataplane(&error);
                Err(Failure::new(code::FAILED, error))
            }
        }
    }
}

/// Those of a file without a mistake.
fn objects_of(file: &Path) -> Result<Vec<Object>, Failure> {
    let failed = |what: &dyn std::fmt::Display| Failure::new(code::FAILED, format!("{}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
    let is_json = file.extension().is_some_and(|extension| extension == "json");
    let parsed = parse(&text, if is_json { Syntax::Json } else { Syntax::Yaml });
    match parsed.problems.first() {
        None => Ok(parsed.objects),
        Some(problem) => {
            let line = problem.line.map_or(String::new(), |line| format!("line {line}: "));
            Err(failed(&format!("{line}{}", problem.message)))
        }
    }
}
