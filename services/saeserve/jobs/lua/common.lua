-- Put before every script. The only writer of a job's state is move(): it keeps the hash, the
-- sets derived from the state, and the stream of events together.
--
-- Keys are computed here rather than declared: the index lives on one primary, never a cluster.
-- JSON (submission, progress, outputs, failure, events) is stored as it comes: cjson would turn
-- [] into {} and round numbers.
--
-- job:<id>                     hash; see read_record in redis_index.py, and:
--   lease_epoch                epoch of the lease held; 0 from acquire to start
--   beats, lease_ttl           how often leases were renewed, ever; ms that this one lasts unrenewed
--   left                       owner:epoch that released last, so that a repeat answers the same
--   settled                    1 once finish() applied a committed result
--   seq, op:<epoch>            last sequence of the stream; highest op of each attempt
--   worker_op:<epoch>          the same of the worker's events, whose ops count downwards: minus the lowest
-- events:<id>                  stream, entry ids <sequence>-0
--                              expires when its job has ended `keep` ms ago
-- ids                          all ids; equal scores, so in order of time
-- state:<state>                ids in that state
-- unsettled                    CANCELLING ids that nobody runs: result not committed or not applied
-- classes, submitters:<class>  what has ever queued
-- queue:<class>:<submitter>    QUEUED ids; score -priority, then by id, which is age
-- held:<class>:<submitter>     leased ids
-- leases                       leased ids; score = the job's beats, which whoever takes leases back watches
-- offer:<class>:<owner>        the id that acquire gave this owner
-- workers:<class>              names of workers that announced their machine
-- machine:<class>:<worker>     what they announced, as JSON; expires
-- store                        id of the artifact store that the jobs belong to
-- generation, server           mark of the data, and run id of the server that it was set on
local PREFIX = 'saeserve:'
local LEASED = { STARTING = true, RUNNING = true, PAUSING = true, CANCELLING = true }
local TERMINAL = { SUCCEEDED = true, FAILED = true, CANCELLED = true }

-- Where an older release put the job.
local WEEK_MS = 7 * 24 * 3600 * 1000

local function key(...)
  return PREFIX .. table.concat({ ... }, ':')
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function field(job, name)
  return redis.call('HGET', key('job', job), name)
end

local function known(job)
  return redis.call('EXISTS', key('job', job)) == 1
end

local function record(job)
  return redis.call('HGETALL', key('job', job))
end

-- The store keeps the events of ended jobs.
local function expire_events(job)
  redis.call('PEXPIRE', key('events', job), field(job, 'keep') or WEEK_MS)
end

local function append(job, event)
  local sequence = redis.call('HINCRBY', key('job', job), 'seq', 1)
  local limit = field(job, 'stream')
  redis.call('XADD', key('events', job), 'MAXLEN', '~', limit, sequence .. '-0', 'event', event)
  if TERMINAL[field(job, 'state')] then
    expire_events(job)
  end
end

-- The field that keeps how far the events of an attempt's writer are known, and the event's place.
local function op_mark(epoch, op)
  if op < -1 then
    return 'worker_op:' .. epoch, -op
  end
  return 'op:' .. epoch, op
end

local function note(job, state, reason)
  local values = redis.call('HMGET', key('job', job), 'epoch', 'step')
  append(job, string.format(
    '{"epoch":%d,"op":-1,"time":%.3f,"step":%d,"type":"state_changed","data":{"state":"%s","reason":%s}}',
    values[1], now_ms() / 1000, values[2], state, cjson.encode(reason)))
end

local function leave(job, state, class, submitter)
  redis.call('SREM', key('state', state), job)
  if state == 'QUEUED' then
    redis.call('ZREM', key('queue', class, submitter), job)
  end
end

local function enter(job, state, class, submitter)
  redis.call('SADD', key('state', state), job)
  if state == 'QUEUED' then
    redis.call('SADD', key('classes'), class)
    redis.call('SADD', key('submitters', class), submitter)
    redis.call('ZADD', key('queue', class, submitter), -field(job, 'priority'), job)
  end
end

local function drop_lease(job, class, submitter)
  redis.call('ZREM', key('leases'), job)
  redis.call('SREM', key('held', class, submitter), job)
  redis.call('HSET', key('job', job), 'owner', '', 'lease_epoch', 0)
end

local function renew(job, ttl_ms)
  local beats = redis.call('HINCRBY', key('job', job), 'beats', 1)
  redis.call('HSET', key('job', job), 'lease_ttl', ttl_ms)
  redis.call('ZADD', key('leases'), beats, job)
end

local function grant(job, owner, lease_epoch, ttl_ms)
  local values = redis.call('HMGET', key('job', job), 'class', 'submitter')
  redis.call('SADD', key('held', values[1], values[2]), job)
  redis.call('HSET', key('job', job), 'owner', owner, 'lease_epoch', lease_epoch)
  renew(job, ttl_ms)
end

local function move(job, to, reason)
  local values = redis.call('HMGET', key('job', job), 'state', 'class', 'submitter')
  local from, class, submitter = values[1], values[2], values[3]
  leave(job, from, class, submitter)
  enter(job, to, class, submitter)
  if LEASED[from] and not LEASED[to] then
    drop_lease(job, class, submitter)
  end
  redis.call('HSET', key('job', job), 'state', to, 'reason', reason)
  redis.call('HINCRBY', key('job', job), 'revision', 1)
  if TERMINAL[to] then
    redis.call('HSET', key('job', job), 'ended', now_ms())
  end
  note(job, to, reason)
end

-- Nobody runs the job: only a committed result, which finish() tells, makes it CANCELLED.
local function cancel_unsettled(job, reason)
  local values = redis.call('HMGET', key('job', job), 'state', 'class', 'submitter')
  if values[1] ~= 'CANCELLING' then
    move(job, 'CANCELLING', reason)
  end
  drop_lease(job, values[2], values[3])
  redis.call('SADD', key('unsettled'), job)
end

-- The lease is that of (owner, epoch). One that has not started yet may present epoch 0, or the
-- epoch that its owner has just claimed in the store.
local function holds(job, owner, epoch)
  local values = redis.call('HMGET', key('job', job), 'owner', 'lease_epoch', 'epoch', 'state')
  if not LEASED[values[4]] or values[1] ~= owner or owner == '' then
    return false
  end
  local held = tonumber(values[2])
  return held == epoch or (held == 0 and epoch > tonumber(values[3]))
end
