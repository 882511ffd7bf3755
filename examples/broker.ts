// broker ADDRESS FOLDER: lets the user `nobody`, and no other, read the logs in a folder that only root may enter.
import { listen } from 'fdpass'
import { serveBroker } from 'fdpass/broker'

const NOBODY = 65_534
const [, , address, folder] = process.argv
if (address === undefined || folder === undefined) {
  console.error('usage: broker ADDRESS FOLDER')
  process.exit(2)
}

// Every process may connect. The kernel reports its credentials.
const server = await listen(address, { mode: 0o666 })
const service = serveBroker(server, {
  roots: [folder],
  allow: (request, { uid, unknownUid }) =>
    unknownUid !== true &&
    uid === NOBODY &&
    request.operation === 'open' &&
    request.kind === 'file' &&
    request.access === 'read' &&
    !request.create &&
    !request.truncate
})
process.once('SIGTERM', () => service.close())
console.log(`serving ${folder} on ${server.address}`)
