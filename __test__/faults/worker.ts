// A worker of the scenario `workers`: answers each connection that sends something.
import { connections } from 'fdpass/superserver'

for await (const connection of connections())
  connection.on('error', () => {}).on('data', () => connection.end('answer'))
