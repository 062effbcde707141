//! The smallest program with a node of its own: one kind of task, one task.
//!
//! `cargo run -p hello-tasks`

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use taskd::client::{Client, Task};
use taskd::service::{Context, Service, TaskError};
use taskd::{Config, Node};

#[derive(Serialize, Deserialize)]
struct Greet {
    name: String,
}

struct Greeter;

impl Service for Greeter {
    type Payload = Greet;
    type Output = String;

    async fn run(&self, context: Context, greet: Greet) -> Result<String, TaskError> {
        Ok(format!("Hello {}, from attempt {} on {}!", greet.name, context.attempt(), context.node()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A node that brings its own coordination service; ports 0 are any that are free. A real one keeps its directory.
    let dir = tempfile::tempdir()?;
    let mut config = Config::embedded("n1".parse()?);
    config.node.data_dir = dir.path().to_owned();
    config.node.listen = "127.0.0.1:0".parse()?;
    config.coordination.embedded_listen = "127.0.0.1:0".parse()?;

    let mut node = Node::builder(config).service("greet", Greeter).start().await?;
    tokio::time::timeout(Duration::from_secs(60), node.ready()).await?;

    let client = Client::connect(node.address().parse()?).await?;
    let greeting = client.submit(Task::new("greet", &Greet { name: "world".to_owned() })?).await?;
    println!("task {} is committed", greeting.id());
    let task = greeting.wait().await?;
    println!("it has {}", task.state);
    println!("{}", greeting.result::<String>().await?);

    client.close().await;
    let report = node.stop().await;
    if report.is_clean() { Ok(()) } else { Err(format!("the node left something behind: {report:?}").into()) }
}
