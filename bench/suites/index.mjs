import accept from './accept.mjs'
import calls from './calls.mjs'
import channel from './channel.mjs'
import idle from './idle.mjs'
import imports from './imports.mjs'
import load from './load.mjs'
import passing, { superserver, workers } from './passing.mjs'
import reload from './reload.mjs'

/** What is measured, in the order of the results. */
export const suites = { passing, calls, superserver, workers, reload, accept, channel, load, idle, imports }
