// broker ADDRESS FOLDER: lets `nobody`, and nobody else, read the logs in a folder that only root may enter.
import { listen } from 'fdpass'
import { serveBroker } from 'fdpass/broker'

const NOBODY = 65_534
const [, , address, folder] = process.argv
if (address === undefined || folder === undefined) {
  console.error('usage: broker ADDRESS FOLDER')
  process.exit(2)
}

// Whoever may connect may ask; the kernel says who it is.
const server = await listen(address, { mode: 0o666 })
const service = serveBroker(server, {
  roots: [folder],
  allow: (request, { uid }) =>
    uid === NOBODY &&
    request.operation === 'open' &&
    request.kind === 'file' &&
    request.access === 'read' &&
    !request.create &&
    !request.truncate
})
process.once('SIGTERM', () => service.close())
console.log(`serving ${folder} on ${server.address}`)
