// superserver FILE: runs the services of a JSON file, such as echo.json, as inetd does. SIGHUP reads the file again.
import { superserve } from 'fdpass/superserver'

const [file] = process.argv.slice(2)
if (file === undefined) {
  console.error('usage: superserver FILE')
  process.exit(2)
}

const server = await superserve(file)
server.on('failure', ({ service, error }) => console.error(`${service}: ${error.message}`))
server.on('pause', ({ service, milliseconds }) => console.error(`${service}: pauses for ${milliseconds} ms`))
for (const { service, name } of server.addresses) console.log(`${service}: ${name}`)
