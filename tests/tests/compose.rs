//! `deploy/compose.yml` is read by nothing else in the tree, so it is held to the programs here: what it sets they know,
//! where it finds them they listen, and its servers are what the programs need.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use jobworker_e2e::process::program;
use jobworker_e2e::tidy::root;
use yaml_rust2::{Yaml, YamlLoader};

const FILE: &str = "deploy/compose.yml";

struct Stack {
    document: Yaml,
}

impl Stack {
    fn read() -> Result<Self> {
        let text = std::fs::read_to_string(root().join(FILE))?;
        let mut documents = YamlLoader::load_from_str(&text)?;
        ensure!(documents.len() == 1, "{FILE} is one document");
        Ok(Self {
            document: documents.remove(0),
        })
    }

    /// Those whose image is made from this stage of the `Dockerfile`.
    fn built_as(&self, target: &str) -> Vec<&Yaml> {
        let services = self.document["services"].as_hash().into_iter().flatten();
        services
            .map(|(_, service)| service)
            .filter(|service| field(service, "build")["target"].as_str() == Some(target))
            .collect()
    }

    fn service(&self, name: &str) -> &Yaml {
        &self.document["services"][name]
    }
}

/// A field of a mapping, also one that comes by `<<`.
fn field<'a>(of: &'a Yaml, name: &str) -> &'a Yaml {
    match &of[name] {
        Yaml::BadValue => match &of["<<"] {
            Yaml::BadValue => &Yaml::BadValue,
            merged => field(merged, name),
        },
        own => own,
    }
}

/// What a service is given, by `<<` too.
fn environment(service: &Yaml) -> BTreeMap<&str, &str> {
    fn gather<'a>(mapping: &'a Yaml, into: &mut BTreeMap<&'a str, &'a str>) {
        for (name, value) in mapping.as_hash().into_iter().flatten() {
            match (name.as_str(), value.as_str()) {
                (Some("<<"), _) => gather(value, into),
                (Some(name), value) => {
                    into.entry(name).or_insert(value.unwrap_or_default());
                }
                _ => {}
            }
        }
    }
    let mut all = BTreeMap::new();
    gather(field(service, "environment"), &mut all);
    all
}

/// All words of a list, or of a line.
fn words(list: &Yaml) -> Vec<&str> {
    match list {
        Yaml::String(line) => line.split_whitespace().collect(),
        list => list
            .as_vec()
            .into_iter()
            .flatten()
            .filter_map(Yaml::as_str)
            .collect(),
    }
}

fn has_pair(words: &[&str], option: &str, value: &str) -> bool {
    words.windows(2).any(|pair| pair == [option, value])
}

/// What a program says of itself: its settings stand there.
fn help(binary: &str) -> Result<String> {
    let output = Command::new(program(binary)?).arg("--help").output()?;
    ensure!(output.status.success(), "{binary} --help: {:?}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn knows(help: &str, setting: &str) -> bool {
    help.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
        .any(|word| word == setting)
}

/// The port that a program listens on by itself.
fn port(help: &str) -> Result<&str> {
    let default = help.split("[default: 127.0.0.1:").nth(1);
    let port = default.and_then(|rest| rest.split(']').next());
    port.context("its help names the address that it listens on")
}

/// The lines of a stage of the `Dockerfile`.
fn stage(target: &str) -> Result<String> {
    let text = std::fs::read_to_string(root().join("Dockerfile"))?;
    let stages = text.split("\nFROM ");
    let ends = format!(" AS {target}");
    let found = stages
        .into_iter()
        .find(|stage| stage.lines().next().is_some_and(|line| line.ends_with(&ends)));
    found
        .map(str::to_owned)
        .with_context(|| format!("the Dockerfile has no stage `{target}`"))
}

const PROGRAMS: [(&str, &str); 3] = [
    ("api", "jobworker-api"),
    ("scheduler", "jobworker-scheduler"),
    ("agent", "jobworker-agent"),
];

#[test]
fn every_setting_of_the_stack_is_one_that_its_program_knows() -> Result<()> {
    let stack = Stack::read()?;
    for (target, binary) in PROGRAMS {
        let (help, services) = (help(binary)?, stack.built_as(target));
        ensure!(!services.is_empty(), "{FILE} has no {target}");
        ensure!(!knows(&help, "JOBWORKER_NOBODY"), "this cannot fail");
        for service in services {
            let settings = environment(service);
            ensure!(settings.len() > 2, "{target}: {settings:?}");
            for name in settings.keys() {
                ensure!(knows(&help, name), "{binary} knows no {name}, which {FILE} sets");
            }
        }
    }
    Ok(())
}

#[test]
fn secrets_come_from_outside_and_have_no_default() -> Result<()> {
    let stack = Stack::read()?;
    for (target, name) in [("api", "JWT_SECRET"), ("scheduler", "WORKER_TOKEN_SECRET")] {
        for service in stack.built_as(target) {
            let settings = environment(service);
            let value = settings
                .get(name)
                .with_context(|| format!("{target} has no {name}"))?;
            ensure!(value.starts_with(&format!("${{{name}:?")), "{name} is {value}");
        }
    }
    Ok(())
}

#[test]
fn there_are_two_of_each_program_and_two_agents_apart() -> Result<()> {
    let stack = Stack::read()?;
    for target in ["api", "scheduler"] {
        for service in stack.built_as(target) {
            let replicas = service["deploy"]["replicas"].as_i64();
            ensure!(replicas >= Some(2), "{target}: {replicas:?} replicas");
        }
    }
    let agents = stack.built_as("agent");
    ensure!(agents.len() >= 2, "{} agents", agents.len());
    let mut folders = Vec::new();
    for agent in agents {
        let settings = environment(agent);
        let folder = settings
            .get("JOBWORKER_AGENT_STATE")
            .context("an agent has a folder")?;
        ensure!(!folders.contains(folder), "two agents have {folder}");
        folders.push(folder);
        let mounted = agent["volumes"].as_vec().into_iter().flatten();
        let mut mounted = mounted.filter(|volume| volume["target"].as_str() == Some(folder));
        let volume = mounted.next().with_context(|| format!("{folder} is mounted"))?;
        // the engine, which is outside, has to find the workspaces at the same place
        ensure!(volume["source"] == volume["target"], "{volume:?}");
        ensure!(
            volume["bind"]["propagation"].as_str() == Some("rshared"),
            "{volume:?}"
        );
        let key = settings
            .get("JOBWORKER_WORKER_KEY_FILE")
            .context("an agent has a key")?;
        let given = words(&agent["volumes"]);
        ensure!(
            given.iter().any(|volume| volume.contains(&format!(":{key}"))),
            "nobody puts {key} there"
        );
    }
    Ok(())
}

#[test]
fn mongodb_is_a_replica_set_that_is_made_and_named_and_redis_keeps_everything() -> Result<()> {
    let stack = Stack::read()?;
    let mongo = words(&stack.service("mongo")["command"]);
    let set = mongo.windows(2).find(|pair| pair[0] == "--replSet");
    let set = set.context("mongod is told its replica set")?[1];
    let made = words(&stack.service("mongo-init")["command"]).join(" ");
    ensure!(
        made.contains("rs.initiate")
            && made.contains(&format!("_id: '{set}'"))
            && made.contains("'mongo:27017'"),
        "{made}"
    );
    let redis = words(&stack.service("redis")["command"]);
    ensure!(has_pair(&redis, "--appendonly", "yes"), "{redis:?}");
    ensure!(has_pair(&redis, "--maxmemory-policy", "noeviction"), "{redis:?}");
    for server in ["mongo", "redis"] {
        ensure!(
            !words(&stack.service(server)["volumes"]).is_empty(),
            "{server} keeps nothing"
        );
    }
    for target in ["api", "scheduler"] {
        for service in stack.built_as(target) {
            let settings = environment(service);
            let uri = settings.get("MONGODB_URI").context("no MONGODB_URI")?;
            ensure!(uri.starts_with("mongodb://mongo:27017/"), "{uri}");
            ensure!(uri.ends_with(&format!("replicaSet={set}")), "{uri}");
            ensure!(
                settings.get("REDIS_URL") == Some(&"redis://redis:6379"),
                "{settings:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn everybody_is_found_at_the_port_where_it_listens() -> Result<()> {
    let stack = Stack::read()?;
    for (target, binary) in [("api", "jobworker-api"), ("scheduler", "jobworker-scheduler")] {
        let help = help(binary)?;
        let (port, stage) = (port(&help)?, stage(target)?);
        for line in [format!("ENV LISTEN=0.0.0.0:{port}"), format!("EXPOSE {port}")] {
            ensure!(
                stage.lines().any(|own| own == line),
                "{target} lacks `{line}`: {stage}"
            );
        }
        for service in stack.built_as(target) {
            let mut open = words(&service["ports"]);
            open.extend(words(&service["expose"]));
            ensure!(!open.is_empty(), "{target} is found nowhere");
            for open in open {
                ensure!(
                    open.rsplit(':').next() == Some(port),
                    "{target} listens on {port}, not {open}"
                );
            }
        }
        if target == "api" {
            one_port_a_replica(stack.service(target))?;
        }
    }
    let gateway = help("jobworker-scheduler")?;
    for agent in stack.built_as("agent") {
        let settings = environment(agent);
        let server = settings
            .get("JOBWORKER_SERVER")
            .context("an agent has a server")?;
        ensure!(
            *server == format!("ws://scheduler:{}", port(&gateway)?),
            "{server}"
        );
    }
    Ok(())
}

/// A range of the host's ports, as long as there are replicas.
fn one_port_a_replica(service: &Yaml) -> Result<()> {
    let ports = words(&service["ports"]);
    let [ports] = ports.as_slice() else {
        bail!("expected one range: {ports:?}");
    };
    let range = ports.rsplit(':').nth(1).and_then(|range| range.split_once('-'));
    let (first, last) = range.with_context(|| format!("{ports} is no range"))?;
    let count = last.parse::<i64>()? - first.parse::<i64>()? + 1;
    ensure!(
        Some(count) == service["deploy"]["replicas"].as_i64(),
        "{count} ports"
    );
    Ok(())
}
